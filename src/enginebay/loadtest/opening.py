"""Connections are opened before anything is timed, so that no request pays for its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, runtime_checkable

from enginebay.backend import Backend
from enginebay.errors import BackendError
from enginebay.guard import GuardedBackend
from enginebay.loadtest.plan import Load, PlannedRequest

MIN_OPEN_LOOP_CONNECTIONS = 64
MAX_OPEN_LOOP_CONNECTIONS = 512
"""Opened in advance where nobody knows how many requests will be under way at a time."""


@runtime_checkable
class OpensConnections(Protocol):
    async def open_connections(self, num_connections: int) -> None: ...


async def open_connections(backend: Backend, num_connections: int) -> None:
    """As far as the backend has any."""
    inner = backend.inner if isinstance(backend, GuardedBackend) else backend
    if isinstance(inner, OpensConnections):
        # A server that refuses now will refuse the requests, and there it is counted.
        with suppress(BackendError):
            await inner.open_connections(num_connections)


def num_connections(requests: Sequence[PlannedRequest], load: Load) -> int:
    """One for each user; in an open loop, as many as arrive within a second, within bounds."""
    if load.users is not None:
        return min(load.users, len(requests))
    wanted = min(max(peak_rate(requests), MIN_OPEN_LOOP_CONNECTIONS), MAX_OPEN_LOOP_CONNECTIONS)
    return min(math.ceil(wanted), len(requests))


def peak_rate(requests: Sequence[PlannedRequest]) -> float:
    """Most arrivals in any second of the plan; 0 for a closed loop."""
    offsets = sorted(planned.offset_s for planned in requests if planned.offset_s is not None)
    peak = first = 0
    for number, offset in enumerate(offsets):
        while offset - offsets[first] >= 1.0:
            first += 1
        peak = max(peak, number - first + 1)
    return float(peak)
