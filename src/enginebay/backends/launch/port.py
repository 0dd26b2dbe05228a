"""The port of a launched server."""

from __future__ import annotations

import errno
import socket

from enginebay.errors import StartFailed

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
