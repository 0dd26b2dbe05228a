"""How the load test's own client fared in a run: where it was late, stalled or busy, its figures are not the engine's.

Everything here is computed when nothing is measured any more, but for the heartbeat.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from enginebay.clock import Clock
from enginebay.loadtest.records import Record
from enginebay.statistics.percentiles import percentile_of_sorted

HEARTBEAT_S = 0.02


class ClientHealth(msgspec.Struct, frozen=True, kw_only=True):
    send_lag_p50_s: float | None = None
    """From the scheduled instant to the sending, over all requests that were sent; None where none was."""
    send_lag_p99_s: float | None = None
    send_lag_max_s: float | None = None
    longest_stall_s: float = 0.0
    """Longest time that an event loop of the client did not come round, beyond the beat it was asked for."""
    cpu_ratios: tuple[float, ...] = ()
    """Of each process: its CPU time / time of the run. Near 1 the client is the limit."""

    @property
    def num_processes(self) -> int:
        return len(self.cpu_ratios)


class Heartbeat:
    """A task that wants to wake every HEARTBEAT_S; how late it wakes is how long the loop stood still."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.longest_stall_s = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            wanted_at = self._clock.now() + HEARTBEAT_S
            await self._clock.sleep_until(wanted_at)
            self.longest_stall_s = max(self.longest_stall_s, self._clock.now() - wanted_at)


def client_health(
    records: Sequence[Record], *, longest_stalls_s: Sequence[float], cpu_ratios: Sequence[float]
) -> ClientHealth:
    """longest_stalls_s and cpu_ratios: of each process."""
    lags = sorted(record.sent_at - record.scheduled_at for record in records)
    return ClientHealth(
        send_lag_p50_s=percentile_of_sorted(lags, 50) if lags else None,
        send_lag_p99_s=percentile_of_sorted(lags, 99) if lags else None,
        send_lag_max_s=lags[-1] if lags else None,
        longest_stall_s=max(longest_stalls_s, default=0.0),
        cpu_ratios=tuple(cpu_ratios),
    )
