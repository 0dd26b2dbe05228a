"""The engine's state beside the load: one line for each sample, taken apart from the requests' own path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from enginebay import quantities
from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.errors import BackendError, LoadTestError
from enginebay.loadtest.files import write_atomically
from enginebay.loadtest.records import RunKey
from enginebay.types import EngineStats


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None where the engine does not tell."""

    run: RunKey
    at: float
    """Seconds from the start of the run, as in its records."""
    num_in_flight: int
    """Requests that this client waits for."""
    num_running: float | None = None
    num_waiting: float | None = None
    batch_size: float | None = None
    kv_cache_usage_ratio: float | None = None
    num_prompt_tokens: float | None = None
    """This and the following: totals since the engine's start."""
    num_output_tokens: float | None = None
    num_preemptions: float | None = None
    num_prefix_cache_queries: float | None = None
    """In tokens, as the following."""
    num_prefix_cache_hits: float | None = None
    num_steps: float | None = None
    engine_started_at: float | None = None
    """Unix time at which the engine's process says it was started."""
    error: str | None = None
    """Why the engine could not be asked."""


class Sampler:
    """Asks `backend.stats()` at fixed instants. `latest` is the newest reading and when it was made."""

    def __init__(
        self,
        backend: Backend,
        *,
        run: RunKey,
        clock: Clock,
        started_at: Callable[[], float],
        num_in_flight: Callable[[], int],
        interval_s: float,
    ) -> None:
        self._backend, self._run, self._clock = backend, run, clock
        self._started_at, self._num_in_flight, self._interval_s = started_at, num_in_flight, interval_s
        self.samples: list[Sample] = []
        self.latest: tuple[float, EngineStats] | None = None

    async def run(self) -> None:
        """Sample until cancelled. Instants are absolute, and those that were missed are left out."""
        first_at = self._clock.now()
        number = 0
        while True:
            await self.sample()
            number = max(number + 1, int((self._clock.now() - first_at) / self._interval_s) + 1)
            await self._clock.sleep_until(first_at + number * self._interval_s)

    async def sample(self) -> None:
        try:
            stats = await self._backend.stats()
        except BackendError as error:
            self.samples.append(self._sample(EngineStats(), error=f"{type(error).__name__}: {error}"))
            return
        self.latest = (self._clock.now(), stats)
        self.samples.append(self._sample(stats, error=None))

    def _sample(self, stats: EngineStats, *, error: str | None) -> Sample:
        return Sample(
            run=self._run,
            at=self._clock.now() - self._started_at(),
            num_in_flight=self._num_in_flight(),
            num_running=stats.requests_running,
            num_waiting=stats.requests_waiting,
            batch_size=stats.batch_size,
            kv_cache_usage_ratio=stats.kv_cache_usage_ratio,
            num_prompt_tokens=stats.prompt_tokens_total,
            num_output_tokens=stats.generation_tokens_total,
            num_preemptions=stats.preemptions_total,
            num_prefix_cache_queries=stats.prefix_cache_queries_total,
            num_prefix_cache_hits=stats.prefix_cache_hits_total,
            num_steps=stats.extra.get(quantities.ENGINE_STEPS.prometheus_name),
            engine_started_at=stats.extra.get(quantities.PROCESS_START_SERIES),
            error=error,
        )


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    write_atomically(path, msgspec.json.Encoder().encode_lines(samples))


def read_samples(path: Path) -> list[Sample]:
    try:
        return msgspec.json.Decoder(Sample).decode_lines(path.read_bytes())
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{path}: is not a time series of `enginebay bench`: {error}") from error
