"""The likely cause of a failed start, read from how the process ended and what it wrote last."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator, Sequence

from enginebay.backends.worker.known_causes import IS_SURE, KNOWN_CAUSES, SURE_CAUSES

_IS_NO_ERROR = re.compile(r".{0,60}(?<![\w=])(?:DEBUG|INFO|WARN|WARNING)\b")
"""Engines try what may be missing, and log that it is: no such line says why one ended."""


class TellingLines:
    """The lines of a log that surely tell a cause, however much is written after them. One of each cause, the last."""

    def __init__(self) -> None:
        self._lines: dict[int, str] = {}

    def look_at(self, line: str) -> None:
        if not IS_SURE.search(line) or _IS_NO_ERROR.match(line):
            return
        number = next(number for number, (pattern, _) in enumerate(SURE_CAUSES) if pattern.search(line))
        self._lines[number] = line

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines.values())


def likely_cause(*, returncode: int | None, log_tail: Sequence[str], python: str) -> str | None:
    """None where nothing known is found. returncode is None while the process runs, -9 for a SIGKILL."""
    cause, _ = _found(log_tail, python)
    return cause or _cause_of_signal(returncode)


def explained(
    *, returncode: int | None, log: Sequence[str], python: str, telling: Iterable[str] = (), num_lines: int = 20
) -> tuple[str | None, list[str]]:
    """The likely cause and the lines to show: the last ones, and before them the one that tells the cause.

    Engines of several processes say it first, and then at length that another process has ended. telling: lines that
    are perhaps not in the log any more.
    """
    cause, line = _found([*telling, *log], python)
    shown = [*log][-num_lines:]
    if line is not None and line not in shown:
        shown = [line, "[...]", *shown]
    return cause or _cause_of_signal(returncode), shown


def _found(log: Sequence[str], python: str) -> tuple[str | None, str | None]:
    """(cause, the line that tells it)"""
    lines = [line for line in reversed(log) if not _IS_NO_ERROR.match(line)]
    for pattern, cause in KNOWN_CAUSES:
        for line in lines:
            if match := pattern.search(line):
                groups = [group for group in match.groups() if group is not None]
                return cause.format(*groups or [""], python=python), line
    return None, None


def _cause_of_signal(returncode: int | None) -> str | None:
    if returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "the system killed it because memory ran out (its log tells: dmesg), or somebody else killed it"
    if returncode is not None and returncode < 0:
        return f"it crashed with {signal_name(-returncode)}"
    return None


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
