"""What the load test makes of an entry of a config."""

import asyncio
from pathlib import Path

import pytest

from enginebay.backend import Backend
from enginebay.backends.launch.model import model_argument
from enginebay.clock import MonotonicClock
from enginebay.config.loader import parse_config
from enginebay.errors import StartFailed
from enginebay.loadtest.measurement import Subject
from enginebay.loadtest.subjects import subject_of
from enginebay.loadtest.validity.settings import settings_differ

SMOLLM2 = model_argument("smollm2-135m")
LAUNCHED = """version: 1
model: smollm2-135m
backend: never-ready
backends:
  never-ready:
    kind: vllm
    mode: managed
    options: {{executable: [sh, -c, "sleep 60"]{options}}}
bench: {{{bench}}}
"""


def subject(text: str, name: str = "never-ready") -> Subject:
    return subject_of(parse_config(text, environment={}), Path("some.yaml"), name, clock=MonotonicClock())


def start(subject: Subject) -> Backend:
    async def main() -> Backend:
        async with subject.open() as backend:
            return backend

    return asyncio.run(main())


def test_the_load_tests_start_timeout_bounds_a_launched_engine() -> None:
    text = LAUNCHED.format(options="", bench="start_timeout_s: 0.5")
    with pytest.raises(StartFailed, match=r"0\.5 s"):
        start(subject(text))


def test_an_entrys_own_start_timeout_comes_before_the_load_tests() -> None:
    text = LAUNCHED.format(options=", start_timeout_s: 0.25", bench="start_timeout_s: 3600")
    with pytest.raises(StartFailed, match=r"0\.25 s"):
        start(subject(text))


def test_no_result_holds_the_value_of_a_header() -> None:
    text = """version: 1
model: m
backend: theirs
backends:
  theirs:
    kind: openai_http
    url: "http://127.0.0.1:1"
    options: {extra_headers: {x-team: team-4711}, health_path: /ready}
"""
    settings = subject(text, "theirs").configured_settings
    assert settings["extra_headers"] == {"x-team": "***"}
    assert settings["health_path"] == "/ready"


def test_what_the_plan_approximates_makes_no_run_invalid() -> None:
    text = """version: 1
model: smollm2-135m
backend: near
engine: {quantization: int8, dtype: float16}
backends:
  near: {kind: sglang, mode: managed}
"""
    near = subject(text, "near")
    assert near.approximated_settings == {"quantization"}
    approximated = {"quantization": "w8a8_int8", "dtype": "float16"}
    configured = near.configured_settings
    assert not list(settings_differ(configured, approximated, approximated=near.approximated_settings))
    [reason] = settings_differ(
        configured, {**approximated, "dtype": "bfloat16"}, approximated=near.approximated_settings
    )
    assert reason.detail == "the engine runs with other settings: dtype is bfloat16, not float16"


def test_a_model_that_the_engine_tells_by_its_place_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    directory = tmp_path / "words"
    directory.mkdir()
    for asked, told in (
        ("hf:owner/words", "owner/words"), ("hf:owner/words", "hf:owner/words"), ("smollm2-135m", SMOLLM2),
        (str(directory), str(directory)), (str(directory), "/settings/tokenizer"),
    ):  # fmt: skip
        assert not list(settings_differ({"tokenizer": asked}, {"tokenizer": told})), (asked, told)
    for asked, told in (("hf:owner/words", "owner/others"), ("hf:owner/words@main", "owner/words")):
        [reason] = settings_differ({"tokenizer": asked}, {"tokenizer": told})
        assert reason.detail == f"the engine runs with other settings: tokenizer is {told}, not {asked}"
    assert list(settings_differ({"revision": "hf:owner/words"}, {"revision": "owner/words"}))
