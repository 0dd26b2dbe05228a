"""The search through the ordinary runner: a queue behind a backend, on a clock that passes only by waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from loadtest_fakes import ENVIRONMENT, ScriptedBackend, SilentWatcher, VirtualClock, planned, started

from enginebay.backend import Backend
from enginebay.errors import EngineDied
from enginebay.loadtest.capacity.energy import EnergyUse
from enginebay.loadtest.capacity.kept import KeptSearches, read_kept_searches
from enginebay.loadtest.capacity.levels import CapacityLevels
from enginebay.loadtest.capacity.result import RECORDS, CapacityResult, load_capacity
from enginebay.loadtest.capacity.rows import capacity_sentences
from enginebay.loadtest.capacity.session import CapacityBench, Searched
from enginebay.loadtest.capacity.start_search import CapacitySettings, SearchTools
from enginebay.loadtest.measurement import BenchSettings, Subject
from enginebay.loadtest.plan import Load, PlannedLoad
from enginebay.loadtest.records import INTERRUPTED, Record, RunKey, read_records
from enginebay.loadtest.single_process import SingleProcess
from enginebay.testing.known_capacity import KnownQueue
from enginebay.types import FinishReason, GenerationChunk, GenerationRequest, Usage

QUEUE = KnownQueue(num_servers=4, service_s=0.02)
LEVELS = CapacityLevels(ttft_s=0.03, percentile=90)
"""The first token comes when a request has been served: it may wait 0.01 s."""


@dataclass
class QueueBackend(ScriptedBackend):
    """Serves first come, first served; everything of an answer comes when its service ends."""

    queue: KnownQueue = QUEUE
    num_failing: int = 0
    """Of a hundred requests, so many fail."""
    _free_at: list[float] = field(default_factory=list)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        now = self.clock.now()
        self.seen.append((now, request))
        free_at = self._free_at or [now] * self.queue.num_servers
        first = min(range(len(free_at)), key=free_at.__getitem__)
        ends_at = max(now, free_at[first]) + self.queue.service_s
        free_at[first] = ends_at
        self._free_at = free_at
        self.num_running += 1
        try:
            await self.clock.sleep_until(ends_at)
        finally:
            self.num_running -= 1
            if not self.num_running:
                self._free_at = []  # whoever was cancelled is served no more
        if len(self.seen) % 100 < self.num_failing:
            raise EngineDied("it is gone", backend="scripted")
        usage = Usage(num_prompt_tokens=3, num_output_tokens=2)
        yield GenerationChunk(text="xy", num_tokens=2, received_at=self.clock.now(), usage=usage,
                              finish_reason=FinishReason.LENGTH)  # fmt: skip


def plan_probe(rate_rps: float, num_requests: int, *, start_index: int, number: int, session: int) -> PlannedLoad:
    gaps = np.random.default_rng([start_index, number, session]).exponential(1 / rate_rps, num_requests)
    offsets = np.cumsum(gaps)
    requests = tuple(planned(index, offset_s=float(offset)) for index, offset in enumerate(offsets))
    return PlannedLoad(load=Load(rate=rate_rps, arrivals="poisson"), requests=requests)


class CountingMeter:
    def start(self) -> None: ...

    def stop(self) -> EnergyUse:
        return EnergyUse(gpu_joules=100.0, why_no_cpu="it has none")


class OneWattMeter:
    """Of a machine that always uses a watt: as many joules as seconds went by."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock, self._began_at = clock, 0.0

    def start(self) -> None:
        self._began_at = self._clock.now()

    def stop(self) -> EnergyUse:
        return EnergyUse(gpu_joules=self._clock.now() - self._began_at, why_no_cpu="it has none")


def searched(
    out: Path, *, settings: CapacitySettings, decoding_s: float = 0.0, is_metered: bool = False, **backend
) -> CapacityResult:
    """decoding_s: of each answer that was under way when a probe was given up."""

    async def main() -> CapacityResult:
        clock = VirtualClock()

        def decode(record: Record) -> None:
            if record.error_class == INTERRUPTED:
                clock.pass_by(decoding_s)

        @asynccontextmanager
        async def opened() -> AsyncGenerator[Backend, None]:
            yield await started(QueueBackend(clock, **backend))

        tools = SearchTools(
            plan_probe=plan_probe,
            settings=settings,
            bench_settings=BenchSettings(sample_interval_s=1000.0),
            clock=clock,
            watcher=SilentWatcher(on_record=decode),
            meter_of=lambda label: OneWattMeter(clock) if is_metered else CountingMeter(),
        )
        bench = CapacityBench(
            [Subject(label="queue", kind="scripted", open=opened)],
            tools,
            searched=Searched(model="m", workload="words", seed=0),
            out=out,
            environment=ENVIRONMENT,
        )
        return await bench.run()

    return asyncio.run(main())


def test_the_runner_finds_the_capacity_of_a_known_queue(tmp_path: Path) -> None:
    truth = QUEUE.capacity_rps(0.01, allowed_ratio=0.1)
    settings = CapacitySettings(
        levels=LEVELS, probe_s=2, max_probes=6, precision=0.0, start_rps=400.0, price_per_hour={"queue": 3.6}
    )
    result = searched(tmp_path, settings=settings)
    (found,) = result.capacities
    assert found.outcome == "found"
    assert found.rate_rps == pytest.approx(truth, rel=0.1)
    assert found.interval_rps is not None
    assert found.interval_rps.low < truth < found.interval_rps.high
    assert any(probe.is_saturated for probe in found.probes)
    assert all(probe.is_counted for probe in found.probes), [probe.invalid_reasons for probe in found.probes]

    cost = found.cost
    assert cost.good_tokens_per_s is not None
    # Nine of ten requests are good at the capacity, or a few more, with two tokens each.
    assert 2 * 0.9 * found.rate_rps <= cost.good_tokens_per_s <= 2 * found.rate_rps
    assert cost.cost_per_million_good_tokens == pytest.approx(3.6 / 3600 / cost.good_tokens_per_s * 1e6)
    nearest = next(probe for probe in found.probes if probe.rate_rps == cost.probe_rps)
    tokens = nearest.good_tokens_per_request * nearest.num_ended
    assert cost.gpu_joules_per_million_good_tokens == pytest.approx(100 / tokens * 1e6)
    assert cost.why_not == {"cpu_joules_per_million_good_tokens": "it has none"}

    assert load_capacity(tmp_path) == result
    assert {line.run.load.rate for line in read_records(tmp_path / RECORDS)} == {
        probe.rate_rps for probe in found.probes
    }


def test_a_probe_that_cannot_be_borne_is_given_up_early_and_tells_what_was_served(tmp_path: Path) -> None:
    settings = CapacitySettings(levels=LEVELS, probe_s=3, max_probes=1, start_rps=800.0)
    (found,) = searched(tmp_path, settings=settings).capacities
    (probe,) = found.probes
    assert found.outcome == "at most"
    assert probe.is_saturated
    assert probe.duration_s < 1.5
    assert probe.num_ended < probe.num_requests / 2
    assert probe.served_rps == pytest.approx(QUEUE.limit_rps, rel=0.15)


def test_what_was_served_counts_until_a_probe_is_given_up_however_long_decoding_takes(tmp_path: Path) -> None:
    settings = CapacitySettings(levels=LEVELS, probe_s=3, max_probes=1, start_rps=800.0)
    (found,) = searched(tmp_path, settings=settings, decoding_s=0.01).capacities
    (probe,) = found.probes
    assert probe.is_saturated
    assert probe.duration_s < 1.5
    assert probe.served_rps == pytest.approx(QUEUE.limit_rps, rel=0.15)


@pytest.mark.parametrize("start_rps", [800.0, 40.0], ids=["given up", "borne"])
def test_energy_is_that_of_the_load_and_not_of_the_decoding_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_rps: float
) -> None:
    finish = SingleProcess.finish

    async def finish_slowly(replayer: SingleProcess) -> None:
        clock = replayer._clock
        assert isinstance(clock, VirtualClock)
        clock.pass_by(50.0)
        await finish(replayer)

    monkeypatch.setattr(SingleProcess, "finish", finish_slowly)
    settings = CapacitySettings(levels=LEVELS, probe_s=3, max_probes=1, start_rps=start_rps)
    (found,) = searched(tmp_path, settings=settings, is_metered=True).capacities
    (probe,) = found.probes
    assert probe.is_saturated == (start_rps == 800.0)
    assert probe.energy.gpu_joules == pytest.approx(probe.duration_s, abs=0.05)


def test_probes_of_one_rate_are_told_apart(tmp_path: Path) -> None:
    settings = CapacitySettings(levels=LEVELS, probe_s=0.5, max_probes=2, start_rps=10.0)
    (found,) = searched(tmp_path, settings=settings).capacities
    keys = {line.run for line in read_records(tmp_path / RECORDS)}
    assert {key.repeat for key in keys} == {probe.number for probe in found.probes} == {0, 1}


class Stopping(SilentWatcher):
    """Ends the search by a Ctrl-C in the middle of a probe."""

    def __init__(self, in_probe: int) -> None:
        super().__init__()
        self._in_probe = in_probe
        self.search: Callable[[], object] = lambda: None

    def record(self, run: RunKey, record: Record) -> None:
        super().record(run, record)
        if run.repeat == self._in_probe and len(self.records) % 10 == 0:
            self.search()


def search(out: Path, *, watcher: SilentWatcher, kept: KeptSearches | None = None) -> list[tuple[float, int]]:
    """Rate and session of each probe that was planned."""
    planned: list[tuple[float, int]] = []

    def noted(rate_rps: float, num_requests: int, *, start_index: int, number: int, session: int) -> PlannedLoad:
        planned.append((rate_rps, session))
        return plan_probe(rate_rps, num_requests, start_index=start_index, number=number, session=session)

    async def main() -> None:
        clock = VirtualClock()

        @asynccontextmanager
        async def opened() -> AsyncGenerator[Backend, None]:
            yield await started(QueueBackend(clock))

        tools = SearchTools(
            plan_probe=noted,
            settings=CapacitySettings(levels=LEVELS, probe_s=1, max_probes=5, precision=0.0, start_rps=400.0),
            bench_settings=BenchSettings(sample_interval_s=1000.0),
            clock=clock,
            watcher=watcher,
            meter_of=lambda label: CountingMeter(),
        )
        bench = CapacityBench(
            [Subject(label="queue", kind="scripted", open=opened)],
            tools,
            searched=Searched(model="m", workload="words", seed=0),
            out=out,
            environment=ENVIRONMENT,
            kept=kept,
        )
        task = asyncio.create_task(bench.run())
        if isinstance(watcher, Stopping):
            watcher.search = task.cancel
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await task

    asyncio.run(main())
    return planned


def test_a_search_that_was_cut_short_goes_on_and_makes_no_probe_twice(tmp_path: Path) -> None:
    planned = search(tmp_path, watcher=Stopping(in_probe=2))
    before, kept = read_kept_searches(tmp_path)
    (cut_short,) = before.capacities
    assert (cut_short.status, len(cut_short.probes), kept.num_probes) == ("partial", 2, 2)
    assert "was cut short after 2 probes" in " ".join(capacity_sentences(before))

    again = search(tmp_path, watcher=SilentWatcher(), kept=kept)
    assert len(again) == 3
    assert again[0] == (planned[2][0], 1), "the rate that came next, with prompts of its own"
    after = load_capacity(tmp_path)
    (found,) = after.capacities
    assert found.probes[:2] == cut_short.probes
    assert [probe.number for probe in found.probes] == [0, 1, 2, 3, 4]
    assert (found.status, found.outcome, found.num_engine_starts, after.num_sessions) == ("complete", "found", 2, 2)
    assert "on 2 starts of the engine" in " ".join(capacity_sentences(after))
    assert {line.run.repeat for line in read_records(tmp_path / RECORDS)} == {0, 1, 2, 3, 4}

    assert search(tmp_path, watcher=SilentWatcher(), kept=read_kept_searches(tmp_path)[1]) == []
    assert load_capacity(tmp_path).capacities == after.capacities


def test_rates_that_are_all_borne_give_a_lower_bound(tmp_path: Path) -> None:
    settings = CapacitySettings(levels=LEVELS, probe_s=0.5, max_probes=2, start_rps=10.0)
    (found,) = searched(tmp_path, settings=settings).capacities
    assert (found.outcome, found.interval_rps) == ("at least", None)
    assert found.rate_rps == pytest.approx(40.0, rel=0.3)


def test_errors_above_the_bound_are_not_borne_and_do_not_make_a_probe_invalid(tmp_path: Path) -> None:
    settings = CapacitySettings(levels=LEVELS, probe_s=3, max_probes=1, start_rps=40.0)
    (found,) = searched(tmp_path, settings=settings, num_failing=5).capacities
    (probe,) = found.probes
    assert probe.is_counted
    assert not probe.is_borne
    assert probe.misses["errors"].ratio == pytest.approx(0.05, abs=0.02)


def test_a_low_rate_is_probed_for_as_long_as_the_percentile_needs() -> None:
    settings = CapacitySettings(levels=CapacityLevels(ttft_s=1.0, percentile=99), probe_s=60)
    assert settings.num_requests(0.5) == 500
    assert settings.num_requests(20.0) == 1200


def test_an_engine_with_other_settings_than_asked_gives_no_capacity(tmp_path: Path) -> None:
    """Each probe is a run like any other, and invalid for the same reasons."""
    settings = CapacitySettings(levels=LEVELS, probe_s=0.5, max_probes=5, start_rps=40.0)

    async def main() -> CapacityResult:
        clock = VirtualClock()

        @asynccontextmanager
        async def opened() -> AsyncGenerator[Backend, None]:
            yield await started(QueueBackend(clock, effective_settings={"max_num_seqs": 1}))

        subject = Subject(label="q", kind="scripted", open=opened, configured_settings={"max_num_seqs": 8})
        tools = SearchTools(
            plan_probe=plan_probe,
            settings=settings,
            bench_settings=BenchSettings(),
            clock=clock,
            watcher=SilentWatcher(),
        )
        searched = Searched(model="m", workload="words", seed=0)
        return await CapacityBench([subject], tools, searched=searched, out=tmp_path, environment=ENVIRONMENT).run()

    (found,) = asyncio.run(main()).capacities
    assert (found.outcome, found.rate_rps, len(found.probes)) == ("none", None, 2)
    assert "settings_differ" in found.why
    assert not any(probe.is_counted for probe in found.probes)


def test_a_simulated_backend_is_marked(tmp_path: Path) -> None:
    settings = CapacitySettings(levels=LEVELS, probe_s=0.5, max_probes=1, start_rps=40.0)
    (found,) = searched(tmp_path, settings=settings, simulated=True).capacities
    assert found.simulated
