"""While a run lasts, the client's thread comes before the engine's where both share processors and the system lets it.

An engine that computes on every core leaves the client waiting for up to a tenth of a second now and then; the client
needs few per cent of one core, so that the engine hardly notices. Others need the right to it (CAP_SYS_NICE).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PREFERRED_NICENESS = -10


@contextmanager
def client_first() -> Iterator[int]:
    """Give the niceness that this thread has inside. On Linux it is the thread's own: other threads keep theirs.

    Elsewhere it is that of the whole process, an engine in it included, and stays as it is.
    A child that is started inside would inherit it, so the engine is started before.
    """
    before = niceness()
    try:
        _set_niceness(min(before, PREFERRED_NICENESS))
    except PermissionError:
        pass  # then the run is measured as the system schedules it, and tells so by the niceness that it had
    try:
        yield niceness()
    finally:
        _set_niceness(before)


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id() if _is_of_threads() else 0)


def _set_niceness(value: int) -> None:
    if _is_of_threads() and value != niceness():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), value)


def _is_of_threads() -> bool:
    """Elsewhere the id of a thread is none that a priority could be asked by."""
    return sys.platform == "linux"
