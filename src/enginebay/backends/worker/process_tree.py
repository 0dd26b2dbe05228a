"""What a child of ours started, wherever it stands by now: found by descent, by process group or by a tag."""

from __future__ import annotations

import os
import signal

TAG_VARIABLE = "ENGINEBAY_LAUNCH"
"""In the environment of everything that one launch started, whoever its parent is by now."""


def kill_tree(leader: int, tag: str) -> None:
    """Kill a supervisor that runs, and everything below it: also what has left its session and emptied its
    environment, for the supervisor adopts that."""
    below = descendants(leader)
    kill_group(leader)
    for pid in below:
        _kill(pid)
    kill_tagged(tag)  # what was started meanwhile


def descendants(ancestor: int) -> list[int]:
    """Empty where there is no such process."""
    import psutil

    try:
        return [process.pid for process in psutil.Process(ancestor).children(recursive=True)]
    except psutil.Error:
        return []


def kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left in the group


def kill_tagged(tag: str) -> None:
    """Kill every process of ours whose environment has this tag."""
    import psutil

    for process in psutil.process_iter():
        try:
            if process.environ().get(TAG_VARIABLE) == tag:
                process.kill()
        except (psutil.Error, OSError):
            continue  # another user's, or gone


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended, or is another user's
