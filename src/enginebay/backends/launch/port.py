"""The port of a launched server."""

from __future__ import annotations

import errno
import socket
import sys
from typing import TYPE_CHECKING

from enginebay.backends.worker.process_tree import descendants
from enginebay.errors import StartFailed

if TYPE_CHECKING:
    import psutil

HOST = "127.0.0.1"


def chosen_port(wanted: int | None, *, backend: str) -> int:
    """`wanted` if nobody has it, else StartFailed; a free port where none is wanted.

    It is free now. The engine takes it when it has loaded as much as it likes to: who is faster then wins, and the
    engine says so.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections may linger
            probe.bind((HOST, wanted or 0))
            return probe.getsockname()[1]
    except OSError as error:
        raise _refused(wanted, error, backend=backend) from error


def _refused(wanted: int | None, error: OSError, *, backend: str) -> StartFailed:
    if error.errno == errno.EADDRINUSE:
        return StartFailed(
            f"port {wanted} of {HOST} is in use",
            backend=backend,
            likely_cause="another server runs there: end it, or set another options.port, or none for a free one",
        )
    return StartFailed(
        f"port {wanted} of {HOST} cannot be had: {error.strerror}",
        backend=backend,
        likely_cause="set another options.port, or none for a free one",
    )


def stranger_at(port: int, leader: int) -> str | None:
    """Who listens at this port, where it is nobody among the descendants of `leader`; None where it is, and where the
    system does not tell: a listener of another user's. Blocks for some milliseconds. Linux alone."""
    if sys.platform != "linux" or any(_listens(pid, port) for pid in (leader, *descendants(leader))):
        return None
    import psutil

    for process in psutil.process_iter():
        if _listens(process.pid, port):
            return f"process {process.pid} ({_name(process)})"
    return None


def _listens(pid: int, port: int) -> bool:
    import psutil

    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return False
    return any(found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port for found in connections)


def _name(process: psutil.Process) -> str:
    import psutil

    try:
        return process.name()
    except psutil.Error:
        return "it has ended"
