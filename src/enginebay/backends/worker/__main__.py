"""The child: `python -m enginebay.backends.worker --fd N [--parent PID] module:function`.

`function(channel)` is the worker. When it returns, or the parent dies, the process ends.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

from enginebay.backends.worker.channel import ChildChannel
from enginebay.errors import EngineBayError

_PR_SET_PDEATHSIG = 1


def main() -> int:
    arguments = _arguments()
    if arguments.parent is not None:
        die_with_parent(arguments.parent)
    with socket.socket(fileno=arguments.fd) as connection:
        try:
            _load(arguments.worker)(ChildChannel(connection))
        except EngineBayError as error:
            traceback.print_exception(error, limit=0)
            return 1
    return 0


def die_with_parent(parent: int) -> None:
    """Ask the kernel (Linux) to kill this process when the parent's thread that launched it ends.

    Elsewhere the closed channel ends it, at the latest after the step being computed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m enginebay.backends.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="inherited socket to the parent")
    parser.add_argument("--parent", type=int, help="process id of the parent; none where a supervisor sees to it")
    parser.add_argument("worker", help="module:function")
    return parser.parse_args()


def _load(worker: str) -> Callable[[ChildChannel], None]:
    module, _, function = worker.partition(":")
    return getattr(import_module(module), function)


if __name__ == "__main__":
    sys.exit(main())
