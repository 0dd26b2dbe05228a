"""Runs a converter of somebody else's: its lines are read as they come, and it ends when nobody waits for it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from select import select

from enginebay.errors import ModelError

_LOOK_INTERVAL_S = 0.2
_NUM_LAST_LINES = 15
_READ_BYTES = 1 << 16
_LINE_ENDS = re.compile(rb"[\r\n]+")
"""A progress bar draws its line again behind a carriage return."""


def run_tool(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    on_wait: Callable[[], None],
) -> None:
    """environment: all of it. on_wait is called several times a second; what it or on_line raises ends the tool.

    Blocks. Raises ModelError with the tool's last lines.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C is for us: we end it, with its children
        )
    except OSError as error:
        raise ModelError(f"cannot run {command[0]}: {error}") from error
    last_lines: deque[str] = deque(maxlen=_NUM_LAST_LINES)
    with process:
        try:
            _follow(process, last_lines, on_line=on_line, on_wait=on_wait)
            code = process.wait()
        finally:
            _end(process)
    if code != 0:
        tail = "".join(f"\n  {line}" for line in last_lines)
        raise ModelError(f"{' '.join(command)} ended with exit code {code}; its last lines:{tail}")


def _follow(
    process: subprocess.Popen[bytes],
    last_lines: deque[str],
    *,
    on_line: Callable[[str], None],
    on_wait: Callable[[], None],
) -> None:
    """Until it closes its output."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    rest = b""
    while True:
        on_wait()
        if not select([output], [], [], _LOOK_INTERVAL_S)[0]:
            continue
        data = os.read(output, _READ_BYTES)
        *lines, rest = _LINE_ENDS.split(rest + (data or b"\n"))
        for line in filter(None, (line.decode("utf-8", errors="replace").strip() for line in lines)):
            last_lines.append(line)
            on_line(line)
        if not data:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left in the group
