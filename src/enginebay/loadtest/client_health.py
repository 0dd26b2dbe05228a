"""How the load test's own client fared in a run: where it was late, stalled or busy, its figures are not the engine's.

Everything here is computed when nothing is measured any more, but for the heartbeat.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from types import TracebackType

import msgspec

from enginebay.clock import Clock
from enginebay.loadtest.plan import Load
from enginebay.loadtest.priority import client_first
from enginebay.loadtest.records import Record
from enginebay.statistics.percentiles import percentile_of_sorted

HEARTBEAT_S = 0.02
LOCK_STEP_WINDOW = 0.05


class ClientHealth(msgspec.Struct, frozen=True, kw_only=True):
    send_lag_p50_s: float | None = None
    """From the scheduled instant to the sending, over all requests that were sent; None where none was."""
    send_lag_p99_s: float | None = None
    send_lag_max_s: float | None = None
    longest_stall_s: float = 0.0
    """Longest time that an event loop of the client did not come round, beyond the beat it was asked for."""
    cpu_ratios: tuple[float, ...] = ()
    """Of each process: its CPU time / time of the run. Near 1 the client is the limit."""
    niceness: int | None = None
    """Of the client's thread in the run, of several the least preferred; None of results that are older than this."""
    lock_step_ratio: float | None = None
    """Closed loop: requests sent together with those of most other users / all; None where it makes no sense."""

    @property
    def num_processes(self) -> int:
        return len(self.cpu_ratios)


class ProcessFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one process of the client, over one run."""

    longest_stall_s: float = 0.0
    cpu_ratio: float = 0.0
    niceness: int = 0


class ProcessWatch:
    """Around what one process does in a run, on the thread that does it: `figures` are there when it has been left."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._longest_stall_s = 0.0
        self._preference = client_first()
        self.figures = ProcessFigures()

    async def __aenter__(self) -> ProcessWatch:
        self._beating = asyncio.create_task(self._beat(), name="heartbeat of the load test")
        self._niceness = self._preference.__enter__()
        self._began_at, self._cpu_s = self._clock.now(), time.process_time()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        elapsed_s, cpu_s = self._clock.now() - self._began_at, time.process_time() - self._cpu_s
        self._preference.__exit__(None, None, None)
        self._beating.cancel()
        self.figures = ProcessFigures(
            longest_stall_s=self._longest_stall_s,
            cpu_ratio=cpu_s / elapsed_s if elapsed_s > 0 else 0.0,
            niceness=self._niceness,
        )
        await asyncio.wait({self._beating})

    async def _beat(self) -> None:
        """Want to wake every HEARTBEAT_S; how late that is, is how long the loop stood still."""
        while True:
            wanted_at = self._clock.now() + HEARTBEAT_S
            await self._clock.sleep_until(wanted_at)
            self._longest_stall_s = max(self._longest_stall_s, self._clock.now() - wanted_at)


def client_health(records: Sequence[Record], *, processes: Sequence[ProcessFigures], load: Load) -> ClientHealth:
    lags = sorted(record.sent_at - record.scheduled_at for record in records)
    return ClientHealth(
        send_lag_p50_s=percentile_of_sorted(lags, 50) if lags else None,
        send_lag_p99_s=percentile_of_sorted(lags, 99) if lags else None,
        send_lag_max_s=lags[-1] if lags else None,
        longest_stall_s=max((process.longest_stall_s for process in processes), default=0.0),
        cpu_ratios=tuple(process.cpu_ratio for process in processes),
        niceness=max((process.niceness for process in processes), default=None),
        lock_step_ratio=lock_step_ratio(records, load),
    )


def lock_step_ratio(records: Sequence[Record], load: Load) -> float | None:
    """Of the requests of a closed loop, the fraction that was sent together with those of most other users.

    Together: within LOCK_STEP_WINDOW of the median duration of a request. Users who are in lock-step wait for one
    another, and an engine is measured in waves that no traffic has. None for an open loop, for fewer than four users,
    and where each user asked hardly more than once.
    """
    if load.users is None or load.users < 4 or len(records) < 3 * load.users:
        return None
    sent = sorted(record.sent_at for record in records)
    durations = sorted(record.ended_at - record.sent_at for record in records)
    half_window_s = LOCK_STEP_WINDOW * percentile_of_sorted(durations, 50) / 2
    later = sent[load.users :]  # all users begin together
    num_together = sum(
        bisect_right(sent, at + half_window_s) - bisect_left(sent, at - half_window_s) > load.users / 2 for at in later
    )
    return num_together / len(later)
