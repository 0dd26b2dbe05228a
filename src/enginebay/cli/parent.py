"""Ends this process when its parent ends, however the parent ended."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from enginebay.errors import EngineBayError

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM at the parent's death. Raises EngineBayError where that cannot be had."""
    if not sys.platform.startswith("linux"):
        raise EngineBayError("--die-with-parent needs Linux: leave it out and end the server yourself")
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise EngineBayError(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)  # the parent died before the kernel knew our wish
