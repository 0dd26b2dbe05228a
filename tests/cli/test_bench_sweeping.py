"""`bench --sweep`: variants of one backend as entries of a config."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginebay.cli.bench.sweeping import read_sweep
from enginebay.config.loader import load_config
from enginebay.errors import ConfigError

CONFIG = """
version: 1
model: smollm2-135m
backend: base
engine: {max_model_len: 512}
backends:
  base: {kind: reference, engine: {max_num_seqs: 4}, options: {policy: continuous}}
  keyed: {kind: openai_http, url: "http://127.0.0.1:1", options: {api_key: "${SOME_KEY}"}}
"""


def swept(folder: Path, text: str, *, backend: str | None = None):
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "sweep.yaml").write_text(text)
    return read_sweep(folder / "sweep.yaml", folder / "config.yaml", backend=backend)


def loaded(folder: Path, sweep, **environment: str):
    (folder / "written.yaml").write_text(sweep.text)
    return load_config(folder / "written.yaml", environment={"SOME_KEY": "key", **environment})


def test_every_combination_becomes_a_backend_that_differs_in_nothing_else(tmp_path) -> None:
    sweep = swept(tmp_path, "vary: {engine.max_num_seqs: [1, 8], options.policy: [continuous, static]}")
    assert sweep.names == [
        "base max_num_seqs=1, policy=continuous", "base max_num_seqs=1, policy=static",
        "base max_num_seqs=8, policy=continuous", "base max_num_seqs=8, policy=static",
    ]  # fmt: skip
    config = loaded(tmp_path, sweep)
    entry = config.backends[sweep.names[3]]
    assert entry.engine is not None
    assert (entry.kind, entry.engine.max_num_seqs, dict(entry.options)) == ("reference", 8, {"policy": "static"})
    assert config.engine.max_model_len == 512
    assert config.backend == sweep.names[0]


def test_a_list_of_variants_has_names_of_its_own(tmp_path) -> None:
    sweep = swept(tmp_path, "variants: {small: {engine.max_num_seqs: 1}, plain: {}}")
    assert sweep.names == ["small", "plain"]
    plain = loaded(tmp_path, sweep).backends["plain"]
    assert plain.engine is not None
    assert plain.engine.max_num_seqs == 4


def test_a_kind_can_be_varied_that_is_no_entry_and_secrets_stay_references(tmp_path) -> None:
    sweep = swept(tmp_path, "backend: reference\nvary: {engine.max_num_seqs: [1, 2]}")
    assert loaded(tmp_path, sweep).backends["reference max_num_seqs=2"].kind == "reference"
    keyed = swept(tmp_path, "vary: {url: ['http://127.0.0.1:1', 'http://127.0.0.1:2']}", backend="keyed")
    assert "${SOME_KEY}" in keyed.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("vary: {bench.users: [1, 2]}", "bench.users is nothing that a backend can have for itself"),
        ("vary: {engine: [1]}", "engine is nothing that a backend can have for itself"),
        ("vary: {engine.max_num_seqs: []}", "vary"),
        ("vary: {engine.max_num_seqs: [2, 2]}", "two variants are called"),
        ("{}", "give `vary`"),
        ("vary: {image: [a]}\nvariants: {b: {}}", "not both"),
        ("- 1", "no map of keys"),
        ("a: [", "is no YAML"),
        ("vary: {engine.max_num_seqs: [" + ", ".join(map(str, range(1, 70))) + "]}", "makes 69 variants"),
    ],
)
def test_what_is_no_sweep_is_told(tmp_path, text, told) -> None:
    with pytest.raises(ConfigError) as refused:
        swept(tmp_path, text)
    assert told in str(refused.value)
