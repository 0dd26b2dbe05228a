"""What a config file may say, and the words in which a wrong one is refused."""

import re
from pathlib import Path

import pytest

from enginebay.config.loader import load_config, parse_config
from enginebay.config.resolution import entry_names, resolve_backend
from enginebay.errors import ConfigError, ConfigErrors

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"ENGINE_API_KEY": "sk-test-4711"}


def refusal(text: str, **environment: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, file="some.yaml", environment=environment)
    return caught.value


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_loads_and_each_of_its_names_resolves(path: Path) -> None:
    config = load_config(path, environment=ENVIRONMENT)
    assert [resolve_backend(config, name).name for name in entry_names(config)] == list(entry_names(config))


def test_a_config_needs_nothing_but_its_version() -> None:
    config = parse_config("version: 1", environment={})
    assert (config.backend, config.model, config.server.port, dict(config.backends)) == ("reference", None, 8000, {})


def test_an_entry_overrides_the_top_level_key_by_key_and_null_unsets() -> None:
    config = parse_config(
        """
        version: 1
        model: top
        engine: {dtype: bfloat16, max_num_seqs: 8, max_model_len: 512}
        backends:
          reference: {engine: {max_num_seqs: 2, max_model_len: null}}
          other: {kind: vllm, model: own}
        """
    )
    first, second = resolve_backend(config, "reference"), resolve_backend(config, "other")
    assert first.engine.given() == {"dtype": "bfloat16", "max_num_seqs": 2}
    assert (first.kind, first.model) == ("reference", "top")
    assert second.engine.given() == {"dtype": "bfloat16", "max_num_seqs": 8, "max_model_len": 512}
    assert (second.kind, second.model) == ("vllm", "own")
    assert first.engine_path("max_num_seqs") == ("backends", "reference", "engine", "max_num_seqs")
    assert first.engine_path("dtype") == ("engine", "dtype")


def test_a_bare_kind_as_backend_is_a_name_of_its_own_beside_the_entries() -> None:
    config = parse_config("version: 1\nbackend: reference\nbackends: {a: {kind: vllm}}")
    assert entry_names(config) == ("reference", "a")
    assert entry_names(parse_config("version: 1\nbackend: a\nbackends: {b: {}, a: {}}")) == ("b", "a")


def test_a_config_cannot_be_changed() -> None:
    config = parse_config("version: 1\nbackends: {a: {kind: vllm, options: {x: 1}}}\nbench: {users: [1, 2]}")
    assert config.bench.users == (1, 2)
    for change in (
        lambda: setattr(config, "model", "x"),
        lambda: setattr(config.engine, "dtype", "float32"),
        lambda: config.backends.__setitem__("b", None),  # type: ignore[attr-defined]
        lambda: config.backends["a"].options.__setitem__("x", 2),  # type: ignore[attr-defined]
    ):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            change()


@pytest.mark.parametrize(
    ("text", "line", "path", "suggestion"),
    [
        ("version: 1\nmodle: x", 2, "modle", "model"),
        ("version: 1\nengine:\n  max_num_seq: 4", 3, "engine.max_num_seq", "max_num_seqs"),
        ("version: 1\nengine: {Max-Num-Seqs: 4}", 2, "engine.Max-Num-Seqs", "max_num_seqs"),
        ("version: 1\nmax_num_seqs: 4", 2, "max_num_seqs", "engine.max_num_seqs"),
        ("version: 1\nbackends:\n  v:\n    knid: vllm", 4, "backends.v.knid", "kind"),
        ("version: 1\nbackends:\n  v:\n    max_model_len: 1", 4, "backends.v.max_model_len", "engine.max_model_len"),
        (
            "version: 1\nbackends:\n  v8.1:\n    engine:\n      dtpye: auto",
            5,
            'backends."v8.1".engine.dtpye',
            "dtype",
        ),
        ("version: 1\nbench:\n  slo:\n    ttft: 1", 4, "bench.slo.ttft", "ttft_s"),
        ("version: 1\nserver:\n  prot: 1", 3, "server.prot", "port"),
        ("version: 1\nengine:\n  dtype: bf16", 3, "engine.dtype", "bfloat16"),
        ("version: 1\nbackends:\n  v:\n    mode: dokcer", 4, "backends.v.mode", "docker"),
    ],
)
def test_a_typo_is_told_with_file_line_path_and_the_nearest_known_word(
    text: str, line: int, path: str, suggestion: str
) -> None:
    error = refusal(text)
    assert (error.file, error.line, error.path, error.suggestion) == ("some.yaml", line, path, suggestion)
    assert str(error).startswith(f"some.yaml:{line}: {path}: ")
    assert str(error).endswith(f"Did you mean {suggestion!r}?")


def test_a_key_that_resembles_none_is_answered_with_those_that_are_known() -> None:
    error = refusal("version: 1\nserver: {zzzzzz: 1}")
    assert error.suggestion is None
    assert error.expected is not None
    assert error.expected.startswith("one of host, port")


@pytest.mark.parametrize(
    ("line", "found", "expected"),
    [
        ('engine: {max_num_seqs: "64"}', "the text '64'", "a whole number, without quotes"),
        ("engine: {max_num_seqs: true}", "true", "a whole number"),
        ("engine: {max_num_seqs: 1.0}", "the number 1.0", "a whole number"),
        ("engine: {max_num_seqs: 1_000}", "the text '1_000'", "a whole number"),
        ("engine: {max_num_seqs: 0}", "the number 0", "a number of at least 1"),
        ("engine: {seed: false}", "false", "a whole number"),
        ("engine: {gpu_memory_fraction: 1.5}", "the number 1.5", "a number of at most 1.0"),
        ("engine: {gpu_memory_fraction: true}", "true", "a number"),
        ("engine: {gpu_memory_fraction: .nan}", "the number nan", "a number of at most 1.0"),
        ("engine: {enable_prefix_caching: yes}", "the text 'yes'", "true or false: write true"),
        ("engine: {enable_prefix_caching: off}", "the text 'off'", "true or false: write false"),
        ("engine: {enable_prefix_caching: 1}", "the number 1", "true or false"),
        ("engine: {tokenizer: 3}", "the number 3", "text"),
        ("engine: 3", "the number 3", "a map of keys"),
        ("engine: [1]", "a list", "a map of keys"),
        ("engine:", "nothing (null)", "a map of keys"),
        ("model: [a]", "a list", "text"),
        ("bench: {users: 8}", "the number 8", "a list, such as [8]"),
        ("bench: {users: []}", "a list", "at least 1 items"),
        ("server: {port: 65536}", "the number 65536", "a number of at most 65535"),
        ("backends: [vllm]", "a list", "a map of keys"),
        ("backends: {vllm: managed}", "the text 'managed'", "a map of keys"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(line: str, found: str, expected: str) -> None:
    error = refusal(f"version: 1\n{line}")
    assert error.line == 2
    assert error.problem == f"found {found}"
    assert error.expected is not None
    assert error.expected.startswith(expected)


@pytest.mark.parametrize("version", ["2", "true", "'1'", "1.0", "null"])
def test_the_only_version_is_the_whole_number_one(version: str) -> None:
    assert refusal(f"version: {version}").path == "version"


def test_a_missing_key_is_told_where_it_should_stand() -> None:
    assert str(refusal("model: x")).startswith("some.yaml:1: version: this key is missing")
    error = refusal("version: 1\nbench:\n  input_tokens: {min: 3}")
    assert (error.line, error.path) == (3, "bench.input_tokens.max")


def test_a_list_item_is_named_by_its_index() -> None:
    error = refusal("version: 1\nbench:\n  users:\n    - 1\n    - two")
    assert (error.line, error.path) == (5, "bench.users[1]")


@pytest.mark.parametrize(
    ("bench", "path"),
    [("users: [0]", "bench.users[0]"), ("rate_rps: [.inf]", "bench.rate_rps[0]"), ("seed: -1", "bench.seed")],
)
def test_one_wrong_number_is_one_problem(bench: str, path: str) -> None:
    error = refusal(f"version: 1\nbench: {{{bench}}}")
    assert error.path == path
    assert "problems" not in str(error)


def test_all_problems_of_a_file_are_reported_together_in_its_order() -> None:
    error = refusal(
        "version: 1\nengine: {seed: x}\nbackends:\n  v: {kind: a, kind: b, url: '${GONE}'}\n"
        "bench: {userz: [1]}\nserver: 1"
    )
    assert isinstance(error, ConfigErrors)
    assert [(problem.line, problem.path) for problem in error.problems] == [
        (2, "engine.seed"),
        (4, None),
        (4, "backends.v.url"),
        (5, "bench.userz"),
        (6, "server"),
    ]
    assert str(error).splitlines()[-1] == "5 problems"


def test_a_range_whose_ends_are_swapped_is_refused() -> None:
    assert "max (2) is less than min (5)" in str(refusal("version: 1\nbench: {input_tokens: {min: 5, max: 2}}"))


def test_a_setting_that_may_be_dropped_must_exist() -> None:
    error = refusal("version: 1\nbackends: {v: {allow_unsupported: [max_num_seq]}}")
    assert error.path == "backends.v.allow_unsupported[0]"
    assert error.suggestion == "max_num_seqs"


def test_every_config_in_the_documentation_loads() -> None:
    text = (ROOT / "docs" / "config.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        parse_config(block, environment=ENVIRONMENT)


def test_the_errors_in_the_documentation_are_those_that_are_given() -> None:
    text = "version: 1\n\n\nbackends:\n  vllm-fp8:\n    engine:\n      max_num_seq: 1\nbench:\n  users: 8"
    documented = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "config.md").read_text(), re.DOTALL)[0]
    assert documented == f"error: {refusal(text)}\n"


@pytest.mark.parametrize(
    ("bench", "words"),
    [
        ("{users: [1], rate_rps: [2]}", "exclude each other"),
        ("{arrivals: closed, rate_rps: [2]}", "asks for an open loop"),
        ("{arrivals: poisson, users: [1]}", "arrivals is poisson, which needs rate_rps"),
    ],
)
def test_a_load_is_either_closed_or_open(bench: str, words: str) -> None:
    error = refusal(f"version: 1\nbench: {bench}")
    assert words in str(error)
    assert (error.path, error.line) == ("bench", 2)
    assert parse_config("version: 1\nbench: {rate_rps: [0.5, 2]}").bench.rate_rps == (0.5, 2.0)


@pytest.mark.parametrize(
    ("bench", "path", "problem", "suggestion"),
    [
        ("{workload: synthetik}", "bench.workload", "there is no kind 'synthetik'", "synthetic"),
        ("{workload: {kind: shareGPT, path: x}}", "bench.workload", "there is no kind 'shareGPT'", "sharegpt"),
        ("{workload: {path: x}}", "bench.workload.kind", "this key is missing", None),
        ("{arrivals: poison, rate_rps: [1]}", "bench.arrivals", "there is no kind 'poison'", "poisson"),
        ("{input_tokens: {kind: norml, mean: 3}}", "bench.input_tokens", "there is no kind 'norml'", "normal"),
        ("{workload: {kind: trace, path: 4}}", "bench.workload.path", "found the number 4", None),
        (
            "{workload: {kind: sharegpt, path: x, think_time: {mean: 3}}}",
            "bench.workload.think_time.mean",
            "unknown key",
            "mean_s",
        ),
    ],
)
def test_a_wrong_kind_of_load_is_told_with_those_that_there_are(
    bench: str, path: str, problem: str, suggestion
) -> None:
    error = refusal(f"version: 1\nbench: {bench}")
    assert (error.path, error.problem, error.suggestion) == (path, problem, suggestion)


@pytest.mark.parametrize(
    ("bench", "words"),
    [
        ("{workload: {kind: trace, path: x}, output_tokens: 4}", "output_tokens is not for a trace workload"),
        ("{workload: {kind: sharegpt, path: x}, input_tokens: 4}", "input_tokens is not for a sharegpt workload"),
        ("{arrivals: {kind: gamma, burstiness: 2}}", "arrivals is gamma, which needs rate_rps"),
        (
            "{arrivals: {kind: ramp, from_rps: 1, to_rps: 2, duration_s: 3}, rate_rps: [1]}",
            "arrivals is ramp, which has rates of its own",
        ),
        ("{arrivals: {kind: steps, steps: [{rate_rps: 1, duration_s: 3}]}, users: [1]}", "users ask in a closed loop"),
        ("{prompt_form: token_ids, prompt_counts: estimated}", "only the tokenizer knows ids"),
        ("{workload: {kind: table, path: x, fields: {prompt: a, messages: b}}}", "either a prompt or messages"),
    ],
)
def test_parts_of_a_load_that_contradict_each_other_are_refused(bench: str, words: str) -> None:
    assert words in str(refusal(f"version: 1\nbench: {bench}"))
