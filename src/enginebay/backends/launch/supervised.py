"""Our side of a supervised command: start it, hear its log, know when it has ended, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from enginebay.backends.worker import supervisor
from enginebay.backends.worker.log_ring import LogRing
from enginebay.backends.worker.process_tree import TAG_VARIABLE, kill_group, kill_tagged, kill_tree
from enginebay.backends.worker.start_failure import signal_name
from enginebay.errors import StartFailed

_LAST_WORDS_S = 1.0
"""How long the log of an ended process is read."""
_REMOVAL_S = 60.0
_MARGIN_S = 15.0
"""What the supervisor needs beyond the grace: for what the engine left behind, and for its container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    arguments: Sequence[str]
    """The first is a program's file."""
    environment: Mapping[str, str] = field(repr=False)
    container: tuple[str, str] | None = None
    """(runtime, name) of the container that the command runs."""
    folder: Path | None = None
    """Removed when it has ended."""


class SupervisedProcess:
    """Single use. The supervisor leads a session of its own: a Ctrl-C in the terminal is ours alone."""

    def __init__(
        self, command: Command, *, name: str, stop_timeout_s: float, log: LogRing, on_ended: Callable[[], None]
    ) -> None:
        self._command, self._name, self._stop_timeout_s = command, name, stop_timeout_s
        self._log, self._on_ended = log, on_ended
        self._tag = uuid.uuid4().hex
        self._process: asyncio.subprocess.Process | None = None
        self._owner_fd: int | None = None
        """Our end of the pipe that the supervisor watches."""
        self._starting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._is_unwanted = False

    async def start(self) -> None:
        """Return when the supervisor runs. Cancelled, it goes on to where the child is known, and ends that again.

        Raises StartFailed.
        """
        self._starting = asyncio.create_task(self._start(), name=f"launch {self._name}")
        try:
            await asyncio.shield(self._starting)
        except asyncio.CancelledError:
            self.let_go()
            raise

    @property
    def pid(self) -> int | None:
        """Of the supervisor, which leads the process group."""
        return None if self._process is None else self._process.pid

    @property
    def returncode(self) -> int | None:
        """None before the launch and while it runs; negative for a signal."""
        return None if self._process is None else self._process.returncode

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def how_it_ended(self) -> str:
        code = self.returncode
        if code is None:
            return "is running" if self._process else "was not started"
        return f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"

    async def wait_ended(self) -> None:
        if self._starting is not None:
            await asyncio.wait({self._starting})
        if self._watching is not None:
            await asyncio.wait({self._watching})

    def let_go(self) -> None:
        """Have it ended gracefully, then by force. Synchronous: from here on the supervisor sees to it."""
        self._is_unwanted = True
        if self._owner_fd is not None:
            os.close(self._owner_fd)
            self._owner_fd = None

    def kill(self) -> None:
        """At once, with everything that it started. Synchronous; `stop` waits for the end."""
        if self._process is not None and (self._watching is None or not self._watching.done()):
            if self._process.returncode is None:
                kill_tree(self._process.pid, self._tag)
            else:
                self._kill_what_is_left(self._process.pid)

    async def stop(self) -> None:
        """Idempotent. Cancelled, the end goes on without us."""
        self.let_go()
        if self._starting is not None:
            await asyncio.wait({self._starting})
        if self._watching is None:
            return
        await asyncio.wait({self._watching}, timeout=self._stop_timeout_s + _MARGIN_S)
        self.kill()
        await asyncio.wait({self._watching})

    # ---------------------------------------------------------------- launch

    async def _start(self) -> None:
        if self._is_unwanted:
            return
        theirs, ours = os.pipe()
        log_fd = await self._log.open_pipe()
        try:
            self._process = await self._spawn(theirs, log_fd)
        except OSError as error:
            os.close(ours)
            self._log.close()
            raise StartFailed(
                f"cannot run {sys.executable}: {error}", backend=self._name, likely_cause="the system is out of memory"
            ) from error
        finally:
            os.close(theirs)
            os.close(log_fd)
        self._owner_fd = ours
        self._watching = asyncio.create_task(self._watch(self._process), name=f"watch {self._name}")
        if self._is_unwanted:
            self.let_go()

    async def _spawn(self, owner_fd: int, log_fd: int) -> asyncio.subprocess.Process:
        command = self._command
        removals: list[str] = []
        if command.container is not None:
            removals += ["--remove-container", *command.container]
        if command.folder is not None:
            removals += ["--remove-folder", str(command.folder)]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", supervisor.__file__),
            *("--owner-fd", str(owner_fd), "--owner", str(os.getpid()), "--grace", str(self._stop_timeout_s)),
            *(*removals, "--", *command.arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log_fd,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(owner_fd,),
            start_new_session=True,
            env={**command.environment, TAG_VARIABLE: self._tag},
        )

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        collecting = asyncio.create_task(self._log.collect(), name=f"log of {self._name}")
        await process.wait()
        if process.returncode is not None and process.returncode < 0:
            await self._finish_for_it(process)
        self.let_go()
        await asyncio.wait({collecting}, timeout=_LAST_WORDS_S)
        self._log.close()
        await collecting
        self._on_ended()

    def _kill_what_is_left(self, leader: int) -> None:
        kill_group(leader)
        kill_tagged(self._tag)

    async def _finish_for_it(self, process: asyncio.subprocess.Process) -> None:
        """It was perhaps the supervisor that was killed, and not the engine: then its work is ours."""
        self._kill_what_is_left(process.pid)
        if self._command.container is not None:
            await self._remove_container(*self._command.container)

    async def _remove_container(self, runtime: str, name: str) -> None:
        """As the supervisor would: one that cannot be removed has nobody left to tell."""
        try:
            removal = await asyncio.create_subprocess_exec(
                *(runtime, "rm", "-f", name),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=dict(self._command.environment),
            )
        except OSError:
            return
        try:
            await asyncio.wait_for(removal.wait(), _REMOVAL_S)
        except TimeoutError:
            removal.kill()
            await removal.wait()
