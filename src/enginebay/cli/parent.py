"""Ends this process when its parent ends, however the parent ended."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

from enginebay.errors import ConfigError

PR_SET_PDEATHSIG = 1
WATCH_INTERVAL_S = 0.5


def die_with_parent() -> None:
    """SIGTERM at the parent's death: from the kernel of Linux, elsewhere from a thread that looks for it.

    Raises ConfigError where an orphan is not given another parent, so that its parent's death does not show.
    """
    if os.name != "posix":
        raise ConfigError("--die-with-parent needs a POSIX system: leave it out and end the server yourself")
    parent = os.getppid()
    if not _asked_kernel():
        threading.Thread(target=_watch, args=(parent,), name="parent watch", daemon=True).start()
    elif os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)  # the parent died before the kernel knew our wish


def _asked_kernel() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) == 0


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)
