"""Between us and an engine: `python -I -S supervisor.py --owner-fd N --owner PID --grace S ... -- COMMAND`.

It starts the command, and ends with it and with all that it left behind. It ends the command when the owner lets go of
the pipe or dies, however that happens: SIGTERM, then SIGKILL after the grace. Its exit is the command's: the same code,
or the same signal. Standard library alone, so that it starts at once under any Python.

On Linux it adopts what its descendants leave behind, so that leaving the process group is no way out. Elsewhere such a
process would stay; those of the group do not.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LEFT_BEHIND_S = 5.0
"""How long after the engine itself what it left behind may take to end."""
_REMOVAL_S = 60.0
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_NOT_FOUND, _NOT_RUN = 127, 126


def main() -> None:
    # Not argparse's own `--`: the command may hold one as well.
    separator = sys.argv.index("--")
    arguments, command = _arguments(sys.argv[1:separator]), sys.argv[separator + 1 :]
    supervision = Supervision(arguments.owner_fd, arguments.owner, grace_s=arguments.grace)
    status = supervision.run(command, arguments.hand_on)
    if arguments.remove_container:
        _remove_container(*arguments.remove_container)
    if arguments.remove_folder:
        shutil.rmtree(arguments.remove_folder, ignore_errors=True)
    _exit_like(status)


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="supervisor", description=__doc__)
    parser.add_argument("--owner-fd", type=int, required=True, help="end of a pipe: readable when the owner lets go")
    parser.add_argument("--owner", type=int, required=True, help="process id of the owner")
    parser.add_argument("--grace", type=float, required=True, help="seconds from SIGTERM to SIGKILL")
    parser.add_argument("--hand-on", type=int, action="append", default=[], help="descriptor for the command alone")
    parser.add_argument("--remove-folder", help="removed at the end")
    parser.add_argument("--remove-container", nargs=2, metavar=("RUNTIME", "NAME"), help="removed at the end")
    return parser.parse_args(given)


class Supervision:
    """One command, from its start to the end of its last descendant."""

    def __init__(self, owner_fd: int, owner: int, *, grace_s: float) -> None:
        self._owner_fd, self._owner, self._grace_s = owner_fd, owner, grace_s
        self._poll = select.poll()
        self._wake_fd = -1
        self._engine = 0
        self._status: int | None = None
        """What waitpid said of the engine."""
        self._is_told_to_stop = False

    def run(self, command: Sequence[str], hand_on: Sequence[int] = ()) -> int:
        """Return the engine's wait status. hand_on: descriptors that the engine inherits."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._listen()
        self._engine = _started(command)
        for fd in hand_on:
            os.close(fd)  # the engine's alone: its end is to be seen at the other side
        while self._status is None and not self._is_told_to_stop:
            self._wait(None)
        self._end_engine()
        self._end_left_behind()
        return self._status if self._status is not None else 0

    # ---------------------------------------------------------------- hearing

    def _listen(self) -> None:
        os.set_inheritable(self._owner_fd, False)  # ours alone, and not the engine's
        self._wake_fd, wake_end = os.pipe()
        for end in (self._wake_fd, wake_end):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        for number in _ENDING_SIGNALS:
            signal.signal(number, self._told_to_stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._poll.register(self._owner_fd, select.POLLIN)
        self._poll.register(self._wake_fd, select.POLLIN)
        self._watch_owner()

    def _watch_owner(self) -> None:
        """The owner's end of the pipe may have been copied into a process that it forked; its own death has not."""
        if not hasattr(os, "pidfd_open"):
            return
        try:
            self._poll.register(os.pidfd_open(self._owner), select.POLLIN)
        except OSError:
            pass  # an old kernel, or it has died: the pipe tells
        if os.getppid() != self._owner:
            self._is_told_to_stop = True

    def _told_to_stop(self, number: int, frame: object) -> None:
        self._is_told_to_stop = True

    def _wait(self, timeout_s: float | None) -> None:
        """Until something happens, or the time is over; then take note of it."""
        for fd, _ in self._poll.poll(None if timeout_s is None else max(0, timeout_s) * 1000):
            if fd == self._wake_fd:
                _drain(fd)
            else:  # the owner let go, or died: said once, and true from then on
                self._poll.unregister(fd)
                self._is_told_to_stop = True
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._engine:
                self._status = status

    # ---------------------------------------------------------------- ending

    def _end_engine(self) -> None:
        if self._status is None:
            _signal(self._engine, signal.SIGTERM)
            self._wait_until(lambda: self._status is not None, self._grace_s)

    def _end_left_behind(self) -> None:
        """What still runs is asked once, where the engine has ended in time, and killed until nobody is left."""
        left = self._descendants()
        if left and self._status is not None:
            for pid in left:
                _signal(pid, signal.SIGTERM)
            self._wait_until(lambda: not self._descendants(), min(_LEFT_BEHIND_S, self._grace_s))
        while left := self._descendants():
            for pid in left:
                _signal(pid, signal.SIGKILL)
            self._wait(0.05)  # its own children may have to be adopted first
        self._reap()

    def _wait_until(self, is_done, timeout_s: float) -> None:
        ends_at = time.monotonic() + timeout_s
        while not is_done() and (remaining_s := ends_at - time.monotonic()) > 0:
            # What was not ours when it ended sends us no SIGCHLD.
            self._wait(min(remaining_s, 0.05))

    def _descendants(self) -> list[int]:
        self._reap()
        return _descendants_of(os.getpid()) if sys.platform == "linux" else _members_of_group()


# ---------------------------------------------------------------- processes


def _started(command: Sequence[str]) -> int:
    """Fork and run. The engine is killed with us, should we be killed."""
    us = os.getpid()
    # Between fork and exec a signal would meet our handler, and be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    pid = os.fork()
    if pid != 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING_SIGNALS)
        return pid
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != us:
                os._exit(_NOT_RUN)
        for number in (*_ENDING_SIGNALS, signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores the last two
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING_SIGNALS)
        os.execvp(command[0], list(command))
    except OSError as error:
        print(f"cannot run {command[0]}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - it is the engine's log
        os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUN)


def _descendants_of(ancestor: int) -> list[int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := _parent_of(name)):
            parents[int(name)] = parent
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return sorted(found - {ancestor})


def _parent_of(pid: str) -> int | None:
    """None for a process that has ended, waited for or not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The program's name is in brackets and may hold anything.
            state, parent = file.read().rpartition(b")")[2].split()[:2]
    except OSError:
        return None
    return None if state in (b"Z", b"X") else int(parent)


def _members_of_group() -> list[int]:
    listing = subprocess.run(["ps", "-axo", "pid=,pgid=,stat="], capture_output=True, text=True, check=False).stdout
    rows = [line.split() for line in listing.splitlines()]
    return [
        int(pid) for pid, group, state in rows if int(group) == os.getpgrp() != int(pid) and not state.startswith("Z")
    ]


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended, or is another user's


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass


# ---------------------------------------------------------------- the end


def _remove_container(runtime: str, name: str) -> None:
    """By force. One that has gone already is fine; so is one that cannot be removed: nobody is left to tell."""
    try:
        subprocess.run(
            [runtime, "rm", "-f", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_REMOVAL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        pass


def _exit_like(status: int) -> None:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one core dump is enough
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    os._exit(128 - code)


if __name__ == "__main__":
    main()
