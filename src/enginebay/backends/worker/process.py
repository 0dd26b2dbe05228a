"""The parent's side of a worker: launch it, hear it, know when it has gone, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginebay.backends.worker import supervisor
from enginebay.backends.worker.channel import ParentChannel
from enginebay.backends.worker.log_ring import LogRing
from enginebay.backends.worker.process_tree import TAG_VARIABLE, kill_group, kill_tagged, kill_tree
from enginebay.backends.worker.start_failure import explained, signal_name
from enginebay.errors import StartFailed

_END_S = 30.0
"""How long a worker that lost its channel may take to end by itself: it may be in the middle of a long step."""
_LAST_WORDS_S = 1.0
"""How long the log of an ended process is read: a child of its own that left its session may keep the pipe open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """Of a worker whose engine starts processes of its own: `supervisor.py` runs between us and it, and whatever
    leaves the worker's session, or survives it, ends with it; also after `kill -9` of this process."""

    grace_s: float
    """From SIGTERM to SIGKILL, once this process is gone."""
    folder: Path | None = None
    """Removed when the worker has ended."""


class WorkerProcess:
    """One child process, single use. It leads a session of its own, so that a Ctrl-C in the terminal is ours alone
    and a forced stop reaches its own children; it dies with this process, also after `kill -9`.
    """

    def __init__(
        self,
        worker: str,
        *,
        name: str,
        on_frame: Callable[[bytes], None],
        on_ended: Callable[[], None],
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        inherited: Mapping[str, str] | None = None,
        log_file: Path | None = None,
        supervision: Supervision | None = None,
    ) -> None:
        """worker is `module:function` for the child (`__main__.py`). environment is added to what it inherits.

        inherited: in place of our own environment, for an engine that must not see all of it
        (`launch.environment.inherited_environment`).
        on_ended is called once, when the process has been waited for and its log is complete.
        """
        self._worker, self._name, self._python = worker, name, python
        self._inherited, self._supervision = inherited, supervision
        self._tag = uuid.uuid4().hex
        self._owner_fd: int | None = None
        """Our end of the pipe that the supervisor watches."""
        self._environment = dict(environment or {})
        self._on_ended = on_ended
        self._channel = ParentChannel(on_frame=on_frame, on_closed=self._channel_closed)
        self._log = LogRing(log_file)
        self._process: asyncio.subprocess.Process | None = None
        self._launching: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._killing: asyncio.TimerHandle | None = None
        self._has_ended = False
        self._is_unwanted = False
        """It was killed or stopped, perhaps before it ran: a launch in progress takes its child down again."""

    async def launch(self) -> None:
        """Returns when the process runs; whether it is ready, its own frames tell. Raises StartFailed.

        The calling thread must live as long as the child: the kernel ties the child's life to that thread.
        Cancelled, the launch goes on to where its child is known; `kill` or `stop` then reaches that child.
        """
        self._launching = asyncio.create_task(self._launch(), name=f"launch {self._name}")
        self._launching.add_done_callback(_look_at_its_error)  # whoever cancelled the launch does not wait for it
        await asyncio.shield(self._launching)

    async def _launch(self) -> None:
        if self._is_unwanted:
            raise self._stopped_too_early()
        ours, theirs = socket.socketpair()
        with theirs:
            await asyncio.get_running_loop().create_unix_connection(lambda: self._channel, sock=ours)
            log_fd = await self._log.open_pipe()
            try:
                process = self._process = await self._spawn(theirs.fileno(), log_fd)
            except OSError as error:
                raise StartFailed(
                    f"cannot run {self._python}: {error}", backend=self._name, likely_cause="is its venv there?"
                ) from error
            finally:
                os.close(log_fd)
                if self._process is None:
                    self._channel.close()
                    self._log.close()
        self._watching = asyncio.create_task(self._watch(process), name=f"watch {self._name}")
        if self._is_unwanted:
            self._channel.close()
            self.kill()
            await asyncio.wait({self._watching})
            raise self._stopped_too_early()

    def _stopped_too_early(self) -> StartFailed:
        return StartFailed("it was stopped before it ran", backend=self._name)

    async def _spawn(self, channel_fd: int, log_fd: int) -> asyncio.subprocess.Process:
        inherited = os.environ if self._inherited is None else self._inherited
        environment = {**inherited, **self._environment, "PYTHONUNBUFFERED": "1"}
        command = [self._python, "-m", "enginebay.backends.worker", "--fd", str(channel_fd)]
        if self._supervision is None:
            return await _run([*command, "--parent", str(os.getpid()), self._worker], [channel_fd], log_fd, environment)
        if not os.access(self._python, os.X_OK):
            raise FileNotFoundError(f"there is no such program: {self._python}")
        theirs, self._owner_fd = os.pipe()
        try:
            return await _run(
                [*_supervised(self._supervision, theirs, channel_fd), *command, self._worker],
                [channel_fd, theirs],
                log_fd,
                {**environment, TAG_VARIABLE: self._tag},
            )
        except BaseException:
            self._let_go()
            raise
        finally:
            os.close(theirs)

    def _let_go(self) -> None:
        if self._owner_fd is not None:
            os.close(self._owner_fd)
            self._owner_fd = None

    @property
    def pid(self) -> int | None:
        """Of the leader of its session: the worker, or its supervisor."""
        return None if self._process is None else self._process.pid

    @property
    def returncode(self) -> int | None:
        """None before the launch and while it runs; negative for a signal."""
        return None if self._process is None else self._process.returncode

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def send(self, payload: bytes) -> None:
        self._channel.send(payload)

    def log_tail(self) -> list[str]:
        return self._log.tail()

    def how_it_ended(self) -> str:
        code = self.returncode
        if code is None:
            return "is running"
        return f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"

    def start_failed(self, what: str, cause: str | None = None) -> StartFailed:
        """cause: where it is known; else what the log tells."""
        found, lines = explained(
            returncode=self.returncode, log=self._log.tail(200), telling=self._log.telling, python=self._python
        )
        return StartFailed(what, backend=self._name, likely_cause=cause or found, log_tail=lines)

    def kill(self) -> None:
        """At once, with all its children. Synchronous; `stop` waits for the end."""
        self._is_unwanted = True
        if self._process is None or self._has_ended:
            return
        if self._supervision is not None and self._process.returncode is None:
            kill_tree(self._process.pid, self._tag)
            return
        kill_group(self._process.pid)
        if self._supervision is not None:
            kill_tagged(self._tag)

    async def stop(self, *, grace_s: float) -> None:
        """Close the channel, which asks it to end; kill it after grace_s. Returns when it has been waited for."""
        self._is_unwanted = True
        if self._launching is None:
            return
        await asyncio.wait({self._launching})
        if self._watching is None:
            return
        self._channel.close()
        await asyncio.wait({self._watching}, timeout=grace_s)
        self.kill()
        await self._watching

    def _channel_closed(self) -> None:
        """A worker without its channel has to end; one that does not, or whose children hold on, is killed."""
        if not self._has_ended:
            self._killing = asyncio.get_running_loop().call_later(_END_S, self.kill)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        collecting = asyncio.create_task(self._log.collect(), name=f"log of {self._name}")
        await process.wait()
        if self._supervision is None or process.returncode != 0:
            self.kill()  # children that outlived it: they keep the pipe of the log open
        self._let_go()
        await asyncio.wait({collecting}, timeout=_LAST_WORDS_S)
        self._log.close()
        await collecting
        self._has_ended = True
        self._channel.close()
        if self._killing is not None:
            self._killing.cancel()
        self._on_ended()


async def _run(
    command: Sequence[str], handed_on: Sequence[int], log_fd: int, environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log_fd,
        stderr=asyncio.subprocess.STDOUT,
        pass_fds=handed_on,
        start_new_session=True,
        env=environment,
    )


def _supervised(supervision: Supervision, owner_fd: int, channel_fd: int) -> list[str]:
    """What stands before the command: the supervisor, under our own interpreter."""
    watching = ["--owner-fd", str(owner_fd), "--owner", str(os.getpid()), "--grace", str(supervision.grace_s)]
    removals = ["--remove-folder", str(supervision.folder)] if supervision.folder is not None else []
    handing_on = ["--hand-on", str(channel_fd)]
    return [sys.executable, "-I", "-S", supervisor.__file__, *watching, *removals, *handing_on, "--"]


def _look_at_its_error(launching: asyncio.Task[None]) -> None:
    if not launching.cancelled():
        launching.exception()
