import os
import threading

import pytest

from enginebay.loadtest import priority
from enginebay.loadtest.priority import PREFERRED_NICENESS, client_first, niceness


def test_a_thread_is_preferred_inside_and_as_before_after_it() -> None:
    before = niceness()
    with client_first() as inside:
        assert inside == niceness() == (min(before, PREFERRED_NICENESS) if _may_prefer() else before)
    assert niceness() == before


def test_another_thread_keeps_its_own() -> None:
    seen: list[int] = []
    is_inside, may_end = threading.Event(), threading.Event()

    def look() -> None:
        assert is_inside.wait(5)
        seen.append(niceness())
        may_end.set()

    other = threading.Thread(target=look)
    other.start()
    before = niceness()
    with client_first():
        is_inside.set()
        assert may_end.wait(5)
    other.join()
    assert seen == [before]


def test_without_the_right_to_it_the_run_goes_on_as_it_is(monkeypatch) -> None:
    def refuse(which: int, who: int, value: int) -> None:
        raise PermissionError

    monkeypatch.setattr(priority.os, "setpriority", refuse)
    before = niceness()
    with client_first() as inside:
        assert inside == before


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_what_fails_inside_leaves_it_as_before(failure) -> None:
    before = niceness()
    with pytest.raises(failure), client_first():
        raise failure
    assert niceness() == before


def _may_prefer() -> bool:
    before = niceness()
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), before - 1)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), before)
    except PermissionError:
        return False
    return True


def test_where_threads_have_no_niceness_of_their_own_nothing_is_asked_of_one(monkeypatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(priority.sys, "platform", "darwin")
    monkeypatch.setattr(priority.os, "getpriority", lambda which, who: asked.append(who) or 3)
    monkeypatch.setattr(priority.os, "setpriority", lambda *given: pytest.fail("it would be that of the process"))
    with client_first() as inside:
        assert inside == 3
    assert set(asked) == {0}
