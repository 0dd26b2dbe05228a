"""The YAML that is read: 1.2, one document, every key once."""

import pytest

from enginebay.config.loader import load_config, parse_config
from enginebay.config.yaml_nodes import MappingNode, ScalarNode, read_nodes
from enginebay.config.yaml_scalars import plain_scalar, tagged_scalar
from enginebay.errors import ConfigError


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, file="some.yaml", environment={})
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("NO", "NO"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("12", 12), ("-3", -3), ("007", 7), ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"), ("0b11", "0b11"),
        ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("-.inf", float("-inf")), ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"), ("3.3.7", "3.3.7"), ("0.28", 0.28), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    assert plain_scalar(text) == value
    assert type(plain_scalar(text)) is type(value)


def test_a_version_directive_brings_no_booleans_back() -> None:
    root = read_nodes("%YAML 1.1\n---\na: yes", file="f", problems=[])
    assert isinstance(root, MappingNode)
    assert root.entries["a"].node == ScalarNode("yes", 3)


def test_explicit_tags_are_honoured_where_they_fit() -> None:
    assert tagged_scalar("12", "tag:yaml.org,2002:str") == "12"
    assert tagged_scalar("12", "tag:yaml.org,2002:float") == 12.0
    with pytest.raises(ValueError, match="does not fit"):
        tagged_scalar("x", "tag:yaml.org,2002:int")
    assert "'!python/object:os.system' has no meaning" in str(refusal("version: 1\nmodel: !python/object:os.system x"))


def test_a_duplicate_key_is_refused_with_both_lines() -> None:
    assert str(refusal("version: 1\nmodel: a\n\nmodel: b")) == (
        "some.yaml:4: the key 'model' stands twice: here and in line 2"
    )
    assert refusal("version: 1\nengine:\n  seed: 1\n  dtype: auto\n  'seed': 2").line == 5


def test_anchors_and_merges_give_plain_values_and_own_keys_win() -> None:
    config = parse_config(
        """
version: 1
backends:
  a: &a
    kind: vllm
    engine: &engine {max_num_seqs: 2, dtype: auto}
  b: {<<: *a, mode: docker}
  c: {kind: tgi, engine: {<<: [{max_num_seqs: 9}, *engine]}}
"""
    )
    assert (config.backends["b"].kind, config.backends["b"].mode) == ("vllm", "docker")
    assert config.backends["c"].engine.given() == {"max_num_seqs": 9, "dtype": "auto"}
    assert config.source.line(("backends", "b", "kind")) == 5


def test_a_wrong_value_behind_an_alias_is_told_for_the_place_that_uses_it() -> None:
    error = refusal("version: 1\nbackends:\n  a: {engine: {}}\n  b: {engine: &e\n    {seed: x}}\n  c: {engine: *e}")
    assert [(problem.path, problem.line) for problem in error.problems] == [  # type: ignore[attr-defined]
        ("backends.b.engine.seed", 5),
        ("backends.c.engine.seed", 5),
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("version: 1\nengine: [1, 2", 2, "not valid YAML"),
        ("version: 1\n\tmodel: x", 2, "not valid YAML"),
        ("version: 1\n model: x", 2, "not valid YAML"),
        ("version: 1\nmodel: 'x", 2, "not valid YAML"),
        ("version: 1\nmodel: *gone", 2, "the alias *gone has no anchor before it"),
        ("version: 1\nmodel: &a [*a]", 2, "the alias *a has no anchor before it"),
        ("version: 1\n---\nversion: 1", 2, "a second document"),
        ("version: 1\n1: x", 2, "a key is text, not 1"),
        ("version: 1\n? [a]\n: x", 2, "a key is text, not a collection"),
        ("version: 1\nengine: {<<: 3}", 2, "merges a map"),
        ("version: 1\nmodel: " + "9" * 5000, 2, "4300"),
        ("version: 1\nmodel: " + "[" * 80 + "]" * 80, 2, "nested more than 64 levels"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, line: int, words: str) -> None:
    error = refusal(text)
    assert error.line == line
    assert words in str(error)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- version: 1", "just text", "\x00"])
def test_a_file_that_is_no_map_is_refused(text: str) -> None:
    assert refusal(text).file == "some.yaml"


def test_aliases_that_multiply_are_cut_off() -> None:
    lines = ["version: 1", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "unfolds to more than 100000 values" in str(refusal("\n".join(lines)))


def test_a_file_that_cannot_be_opened_or_decoded_is_told_by_name(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "gone.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"model: \xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin.yaml")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfversion: 1")
    assert load_config(tmp_path / "bom.yaml").version == 1
