from __future__ import annotations

import pytest
import yaml

from enginebay.errors import ConfigError
from enginebay.testing.simulators import find_wire
from enginebay.testing.simulators.flags import (
    Flag,
    FlagTable,
    argparse_wording,
    boolean,
    clap_wording,
    click_wording,
    json_value,
    number_with_suffix,
    switch,
)

TABLE = FlagTable(
    positional="model",
    wording=argparse_wording("engine"),
    flags=(
        Flag("--max-num-seqs", int, aliases=("-n",)),
        Flag("--dtype", default="auto", choices=("auto", "float16")),
        Flag("--names", takes_many=True),
        Flag("--config", json_value),
        Flag("--sharded", boolean, env="SHARDED"),
        switch("--cache", default=None),
    ),
)


def test_a_command_line_becomes_values_and_what_is_not_given_its_default():
    values = TABLE.parse(["m", "--max-num-seqs=4", "--names", "a", "b", "--no-cache", "--config", '{"k": 1}'])
    assert values == {
        "model": "m", "max_num_seqs": 4, "dtype": "auto", "names": ["a", "b"], "config": {"k": 1},
        "sharded": None, "cache": False,
    }  # fmt: skip
    assert TABLE.parse(["-n", "3"])["max_num_seqs"] == 3
    assert TABLE.parse(["--cache"])["cache"] is True


def test_the_environment_stands_for_flags_that_are_not_given():
    assert TABLE.parse([], {"SHARDED": "true"})["sharded"] is True
    assert TABLE.parse(["--sharded", "false"], {"SHARDED": "true"})["sharded"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-seqs", "4"], "engine: error: unrecognized arguments: --max-seqs"),
        (["m", "n"], "engine: error: unrecognized arguments: n"),
        (["--max-num-seqs", "x"], "argument --max-num-seqs: invalid value: 'x'"),
        (["--dtype", "int3"], "argument --dtype: invalid choice: 'int3' (choose from 'auto', 'float16')"),
        (["--dtype"], "argument --dtype: expected one argument"),
        (["--config", "{"], "argument --config: invalid value"),
    ],
)
def test_a_wrong_command_line_is_refused_in_the_words_of_argparse(arguments, words):
    with pytest.raises(ConfigError) as caught:
        TABLE.parse(arguments)
    assert words in caught.value.problem


@pytest.mark.parametrize(
    ("wording", "words"),
    [
        (clap_wording("launcher"), "error: unexpected argument '--foo' found"),
        (click_wording("serve"), "Error: No such option: --foo"),
    ],
)
def test_other_parsers_have_words_of_their_own(wording, words):
    with pytest.raises(ConfigError) as caught:
        FlagTable(flags=(), wording=wording).parse(["--foo"])
    assert words in caught.value.problem


@pytest.mark.parametrize(("text", "number"), [("4096", 4096), ("4k", 4000), ("4K", 4096), ("2M", 2**21), ("-1", -1)])
def test_lengths_may_have_suffixes(text, number):
    assert number_with_suffix(text) == number


def test_every_launch_flag_of_the_vllm_contract_is_known_with_its_default_and_choices():
    with open("tests/data/contracts/vllm.yaml") as file:
        launch = yaml.safe_load(file)["launch"]
    table = {flag.name: flag for flag in find_wire("vllm").flags.flags}
    for name, setting in launch["settings"].items():
        flag = setting.get("flag")
        if flag is None:
            continue
        assert flag in table, name
        assert set(setting.get("aliases", ())) <= set(table[flag].aliases), name
        assert tuple(setting.get("choices", ())) == table[flag].choices, name
        assert setting.get("disable_flag") in (None, *table[flag].negatives), name
        if setting.get("default") is not None and name != "port":
            assert table[flag].default == setting["default"], name
    for other in launch["other_useful"]:
        assert other.get("flag") is None or other["flag"] in table
