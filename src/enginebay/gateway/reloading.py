"""A new config while requests run: at SIGHUP, or when its file changes. A bad file is refused, the old one stays."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

from structlog.typing import FilteringBoundLogger
from watchfiles import awatch

from enginebay.config.models import Config
from enginebay.errors import EngineBayError

SignalHandler = Callable[[int, FrameType | None], object] | int | None
WATCH_STEP_MS = 100
WATCH_DEBOUNCE_MS = 400
"""Editors write a file in several steps; a change is told when it has been quiet for a step, at most this late."""


class Reloader:
    """Lives as long as the server. One reload at a time; what is asked for meanwhile is read after it."""

    def __init__(
        self,
        file: Path,
        read: Callable[[], Config],
        reload: Callable[[Config], Awaitable[None]],
        *,
        watches_file: bool,
        log: FilteringBoundLogger,
    ) -> None:
        """read: the file, in a thread. reload: takes all of it or raises."""
        self._file, self._read, self._reload, self._log = file, read, reload, log
        self._watches_file = watches_file
        self._asked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._handler_before: SignalHandler = signal.SIG_DFL
        self.num_reloads = 0
        self.num_refused = 0

    def ask(self) -> None:
        self._asked.set()

    async def begin(self) -> None:
        self._tasks.append(asyncio.create_task(self._reload_when_asked(), name="reload config"))
        if self._watches_file:
            self._tasks.append(asyncio.create_task(self._watch(), name="watch config"))
        if threading.current_thread() is threading.main_thread():
            self._handler_before = signal.getsignal(signal.SIGHUP)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.ask)

    async def end(self) -> None:
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, self._handler_before or signal.SIG_DFL)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reload_when_asked(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self._reload_once()

    async def _reload_once(self) -> None:
        try:
            await self._reload(await asyncio.to_thread(self._read))
        except EngineBayError as error:
            self.num_refused += 1
            self._log.error("config refused, the old one stays", file=str(self._file), reason=str(error))
        except Exception as error:  # noqa: BLE001 - a bug must not end the reloads
            self.num_refused += 1
            self._log.error("config not taken, the old one stays", file=str(self._file), exc_info=error)
        else:
            self.num_reloads += 1
            self._log.info("config reloaded", file=str(self._file))

    async def _watch(self) -> None:
        """The directory, since many editors put a new file in the place of the old one."""
        path = self._file.absolute()
        async for changes in awatch(
            path.parent, recursive=False, step=WATCH_STEP_MS, debounce=WATCH_DEBOUNCE_MS, watch_filter=None
        ):
            if any(Path(changed) == path for _, changed in changes):
                self.ask()
