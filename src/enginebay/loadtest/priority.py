"""While a run lasts, the client's thread comes before the engine's where both share processors and the system lets it.

An engine that computes on every core leaves the client waiting for up to a tenth of a second now and then; the client
needs few per cent of one core, so that the engine hardly notices. Others need the right to it (CAP_SYS_NICE).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PREFERRED_NICENESS = -10


@contextmanager
def client_first() -> Iterator[int]:
    """Give the niceness that this thread has inside. On Linux it is the thread's own: other threads keep theirs.

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
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def _set_niceness(value: int) -> None:
    if value != niceness():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), value)
