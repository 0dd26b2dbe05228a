"""Waiting for the next arrival, more exactly than an event loop's own timers, which count milliseconds.

On Linux a `timerfd` on the monotonic clock wakes the loop within some tens of microseconds of an absolute instant,
without spinning. Elsewhere, and on any clock but the real one, the clock's own sleep serves.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from enginebay.clock import Clock, MonotonicClock

SleepUntil = Callable[[float], Awaitable[None]]

_CLOCK_MONOTONIC = 1  # what time.monotonic() reads on Linux
_TFD_NONBLOCK, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = 0o4000, 0o2000000, 1
_NANOSECONDS = 1_000_000_000


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


@contextmanager
def arrival_timer(clock: Clock) -> Generator[SleepUntil, None, None]:
    """To be waited on by one task at a time."""
    timer = _TimerFd.opened() if type(clock) is MonotonicClock else None
    if timer is None:
        yield clock.sleep_until
        return
    try:
        yield timer.sleep_until
    finally:
        timer.close()


class _TimerFd:
    def __init__(self, libc: ctypes.CDLL, fd: int) -> None:
        self._libc, self._fd = libc, fd
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None
        self._loop.add_reader(fd, self._expired)

    @classmethod
    def opened(cls) -> _TimerFd | None:
        """None where there is no such thing."""
        if sys.platform != "linux":
            return None
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        return cls(libc, fd) if fd >= 0 else None

    async def sleep_until(self, instant: float) -> None:
        if instant <= time.monotonic():
            return
        seconds, nanoseconds = divmod(round(instant * _NANOSECONDS), _NANOSECONDS)
        at = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(seconds, nanoseconds))
        woken = self._woken = self._loop.create_future()
        if self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(at), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
        await woken

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
