"""The environment of the engine's process: our choices, and the user's before them."""

from __future__ import annotations

import pytest

from enginebay.backends.reference.process_environment import MEMORY, THREADS, process_environment

NAMES = (*THREADS.variables, *THREADS.others, *MEMORY.variables, *MEMORY.others)


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_threads_and_memory_are_chosen_where_the_user_has_chosen_nothing():
    assert process_environment({"GREETING": "hello"}) == {**THREADS.variables, **MEMORY.variables, "GREETING": "hello"}


@pytest.mark.parametrize("name", [*THREADS.variables, *THREADS.others])
def test_whoever_sets_a_variable_of_the_threads_sets_them_all(name: str):
    assert process_environment({name: "given"}) == {**MEMORY.variables, name: "given"}


@pytest.mark.parametrize("name", [*MEMORY.variables, *MEMORY.others])
def test_whoever_sets_a_variable_of_the_memory_sets_them_all(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "of our own environment")
    assert process_environment({}) == dict(THREADS.variables)
