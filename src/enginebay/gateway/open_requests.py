"""The requests that are being answered, so that a server that ends can end them with a word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from enginebay.errors import ShuttingDown


class OpenRequests:
    """`with open_requests:` around each; inside, the end of the server is raised as ShuttingDown."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_ended = False

    @property
    def num_open(self) -> int:
        return len(self._tasks)

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def those_of_now(self) -> Callable[[], bool]:
        """Says, whenever it is asked, whether one of those that are open at this moment still is."""
        tasks = frozenset(self._tasks)
        return lambda: not self._tasks.isdisjoint(tasks)

    def end_all(self) -> None:
        """Also of those that begin later."""
        self._has_ended = True
        for task in self._tasks:
            task.cancel()

    def __enter__(self) -> None:
        if self._has_ended:
            raise _shutting_down()
        self._tasks.add(_current_task())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = _current_task()
        self._tasks.discard(task)
        if self._has_ended and task.cancelling():
            task.uncancel()
            if kind is asyncio.CancelledError:
                raise _shutting_down() from error


def _current_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down and could not finish this request: send it again later")
