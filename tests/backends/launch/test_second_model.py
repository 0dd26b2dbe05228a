"""A tokenizer or draft that a setting names: what the command line says, what is mounted, what is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginebay.backends.launch import second_model
from enginebay.backends.launch.second_model import (
    are_here,
    fetch_models,
    second_model_argument,
    second_model_mounts,
    settings_in_container,
)
from enginebay.errors import ConfigError


def test_a_word_that_names_no_model_is_left_to_the_engine() -> None:
    assert second_model_argument("owner/name") == "owner/name"
    assert second_model_argument("/nowhere/at/all") == "/nowhere/at/all"


@pytest.mark.parametrize("source", ["hf:name", "hf:owner/name@main"])
def test_a_name_of_the_hub_that_no_engine_takes_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="hf:"):
        second_model_argument(source)


def test_directories_alone_are_mounted_and_each_has_a_place_of_its_own(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "model", tmp_path / "b" / "model"
    first.mkdir(parents=True)
    second.mkdir(parents=True)
    settings = {"tokenizer": str(first), "speculative_eagle": str(second), "revision": "main"}
    mounts = second_model_mounts(settings)
    assert mounts == ("-v", f"{first}:/settings/tokenizer:ro", "-v", f"{second}:/settings/speculative_eagle:ro")
    assert settings_in_container(settings) == {
        "tokenizer": "/settings/tokenizer", "speculative_eagle": "/settings/speculative_eagle", "revision": "main",
    }  # fmt: skip
    assert second_model_mounts({"tokenizer": "hf:owner/name"}) == ()
    assert are_here(settings)
    assert not are_here({"tokenizer": "hf:owner/name"})


def test_second_models_are_fetched_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(second_model, "fetch_model", fetched.append)
    fetch_models("hf:a/b", {"tokenizer": "smollm2-135m", "speculative_draft_model": "owner/name"})
    assert fetched == ["hf:a/b", "smollm2-135m"]
