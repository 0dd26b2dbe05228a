"""What the load test makes of an entry of a config."""

import asyncio
from pathlib import Path

import pytest

from enginebay.backend import Backend
from enginebay.clock import MonotonicClock
from enginebay.config.loader import parse_config
from enginebay.errors import StartFailed
from enginebay.loadtest.measurement import Subject
from enginebay.loadtest.subjects import subject_of

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
