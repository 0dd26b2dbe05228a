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
    """Lives as long as the server. One reload at a time: a file that says something else takes the place of one whose
    engines are still starting, so that a mistake in it is mended as soon as it is seen."""

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
        self._taking: tuple[Config, asyncio.Task[None]] | None = None
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
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                config = await self._config()
                if config is not None and not self._is_being_taken(config):
                    await self._stop_taking()
                    self._taking = config, asyncio.create_task(self._take(config), name="take config")
        finally:
            await self._stop_taking()

    async def _config(self) -> Config | None:
        try:
            return await asyncio.to_thread(self._read)
        except Exception as error:  # noqa: BLE001 - as below
            self._refuse(error)
            return None

    def _is_being_taken(self, config: Config) -> bool:
        """Told by what it says: where in the file that stands makes no difference."""
        if self._taking is None or self._taking[1].done():
            return False
        return dict(self._taking[0]) == dict(config)

    async def _stop_taking(self) -> None:
        if self._taking is None:
            return
        _, task = self._taking
        if task.cancel():
            self._log.info("config given up for a newer one", file=str(self._file))
        await asyncio.gather(task, return_exceptions=True)

    async def _take(self, config: Config) -> None:
        try:
            await self._reload(config)
        except Exception as error:  # noqa: BLE001 - a bug must not end the reloads
            self._refuse(error)
        else:
            self.num_reloads += 1
            self._log.info("config reloaded", file=str(self._file))

    def _refuse(self, error: Exception) -> None:
        self.num_refused += 1
        if isinstance(error, EngineBayError):
            self._log.error("config refused, the old one stays", file=str(self._file), reason=str(error))
        else:
            self._log.error("config not taken, the old one stays", file=str(self._file), exc_info=error)

    async def _watch(self) -> None:
        """The directory, since many editors put a new file in the place of the old one."""
        path = self._file.absolute()
        async for changes in awatch(
            path.parent, recursive=False, step=WATCH_STEP_MS, debounce=WATCH_DEBOUNCE_MS, watch_filter=None
        ):
            if any(Path(changed) == path for _, changed in changes):
                self.ask()
