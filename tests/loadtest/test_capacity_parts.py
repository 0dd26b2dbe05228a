"""Levels, over-saturation, energy, ratios and rows: each alone."""

from __future__ import annotations

import math
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from loadtest_fakes import ENVIRONMENT

from enginebay.config.bench_capacity import CapacityConfig
from enginebay.config.loader import parse_config
from enginebay.errors import LoadTestError, NotComparable
from enginebay.loadtest.capacity.energy import ELSEWHERE, MachineMeter, NoMeter, meter_for
from enginebay.loadtest.capacity.levels import CapacityLevels, missed
from enginebay.loadtest.capacity.ratio import capacity_ratio
from enginebay.loadtest.capacity.result import BackendCapacity, CapacityResult, Cost, Interval
from enginebay.loadtest.capacity.rows import CAPACITY_HEADER, capacity_rows, capacity_sentences
from enginebay.loadtest.capacity.saturation import SaturationWatch
from enginebay.loadtest.records import Arrival, Record

LEVELS = CapacityLevels(ttft_s=0.5, tpot_s=0.1, e2e_s=2.0, percentile=95)


def record(
    *, scheduled_at: float = 0.0, first_at: float = 0.2, last_at: float = 0.5, num_tokens: int = 5, late_s: float = 0.0,
    error: str | None = None,
) -> Record:  # fmt: skip
    return Record(
        index=0, scheduled_at=scheduled_at, sent_at=scheduled_at + late_s, ended_at=scheduled_at + last_at,
        arrivals=[Arrival(scheduled_at + first_at, 1), Arrival(scheduled_at + last_at, num_tokens - 1)],
        num_planned_prompt_tokens=3, max_tokens=num_tokens, num_output_tokens=num_tokens, error_class=error,
    )  # fmt: skip


# ---------------------------------------------------------------- levels


def names_missed(one: Record) -> set[str]:
    return {name for name, is_missed in missed(one, LEVELS).items() if is_missed}


def test_each_level_is_missed_for_itself() -> None:
    assert names_missed(record()) == set()
    assert names_missed(record(first_at=0.6, last_at=0.7)) == {"ttft_s"}
    assert names_missed(record(first_at=0.2, last_at=0.8)) == {"tpot_s"}
    assert names_missed(record(first_at=0.2, last_at=2.1, num_tokens=50)) == {"e2e_s"}
    assert names_missed(record(error="EngineDied")) == {"ttft_s", "tpot_s", "e2e_s", "errors"}


def test_waiting_counts_from_the_scheduled_instant_and_not_from_the_sending() -> None:
    assert names_missed(record(late_s=0.4, first_at=0.6, last_at=0.7)) == {"ttft_s"}


def test_levels_that_no_rate_could_miss_or_meet_are_refused() -> None:
    with pytest.raises(LoadTestError, match="give ttft_s"):
        CapacityLevels()
    with pytest.raises(LoadTestError, match="percentile"):
        CapacityLevels(ttft_s=1, percentile=100)


# ---------------------------------------------------------------- over-saturation


def watched(*, service_s: float, rate: float, num_requests: int = 600, seed: int = 0) -> tuple[SaturationWatch, float]:
    """One server; fed with everything that ends within the time of sending, and that time."""
    offsets = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, num_requests)).tolist()
    watch, free_at = SaturationWatch(offsets, CapacityLevels(ttft_s=1.0, percentile=90)), 0.0
    for offset in offsets:
        free_at = max(free_at, offset) + service_s
        if free_at <= offsets[-1]:
            watch.see(record(scheduled_at=offset, first_at=free_at - offset, last_at=free_at - offset, num_tokens=1))
    return watch, offsets[-1]


def test_a_queue_that_grows_without_bound_is_given_up() -> None:
    watch, end_s = watched(service_s=0.2, rate=10.0)
    assert watch.is_saturated(end_s / 2)
    assert watch.served_rps(end_s) == pytest.approx(5.0, rel=0.1)


def test_nothing_is_given_up_in_the_first_quarter() -> None:
    watch, end_s = watched(service_s=0.2, rate=10.0)
    assert not watch.is_saturated(0.24 * end_s)


def test_a_steady_queue_is_never_given_up_even_where_it_misses_its_level() -> None:
    """At 94 % load a tenth wait longer than a second, now more, now fewer."""
    for seed in range(20):
        watch, end_s = watched(service_s=0.094, rate=10.0, seed=seed)
        assert not any(watch.is_saturated(share * end_s) for share in (0.3, 0.5, 0.7, 0.9, 1.0)), seed


def test_long_answers_that_are_on_their_way_are_no_backlog_unless_a_level_is_missed() -> None:
    offsets = [index / 10 for index in range(600)]
    watch = SaturationWatch(offsets, CapacityLevels(ttft_s=1.0))
    assert not watch.is_saturated(40.0)


# ---------------------------------------------------------------- energy


def rapl(folder: Path, *, microjoules: int, range_uj: int = 1_000_000) -> None:
    for name in ("intel-rapl:0", "intel-rapl:0:0"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "energy_uj").write_text(f"{microjoules}\n")
        (folder / name / "max_energy_range_uj").write_text(f"{range_uj}\n")


def test_rapl_counts_sockets_once_and_goes_round(tmp_path: Path) -> None:
    meter = MachineMeter(rapl=tmp_path)
    rapl(tmp_path, microjoules=900_000)
    meter.start()
    rapl(tmp_path, microjoules=950_000)
    assert meter.stop().cpu_joules == pytest.approx(0.05)
    rapl(tmp_path, microjoules=100_000)
    assert meter.stop().cpu_joules == pytest.approx(0.2)


def test_without_counters_there_is_a_reason_in_place_of_a_figure(tmp_path: Path) -> None:
    meter = MachineMeter(rapl=tmp_path / "none")
    meter.start()
    use = meter.stop()
    assert use.cpu_joules is None
    assert "no RAPL counters" in use.why_no_cpu
    rapl(tmp_path, microjoules=1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("broken")
    meter = MachineMeter(rapl=tmp_path)
    meter.start()
    assert "cannot be read" in meter.stop().why_no_cpu


def test_an_engine_elsewhere_has_no_energy_of_this_machine() -> None:
    assert isinstance(meter_for("http://192.0.2.7:8000"), NoMeter)
    assert isinstance(meter_for("http://127.0.0.1:8000"), MachineMeter)
    assert isinstance(meter_for(None), MachineMeter)
    assert NoMeter().stop().why_no_gpu == ELSEWHERE


class FakeNvml(SimpleNamespace):
    """What of `pynvml` is used: two GPUs, whose counters are in millijoules."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__(millijoules=[1000, 5000], is_open=False)

    def nvmlInit(self) -> None:
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if self.millijoules[handle] is None:
            raise self.NVMLError("Not Supported")
        return self.millijoules[handle]


def test_nvml_sums_all_gpus_and_is_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    meter = MachineMeter(rapl=tmp_path)
    meter.start()
    nvml.millijoules = [4000, 6500]
    assert meter.stop().gpu_joules == pytest.approx(4.5)
    assert not nvml.is_open
    nvml.millijoules = [4000, None]
    assert meter.stop().why_no_gpu == "NVML: Not Supported"
    assert not nvml.is_open


def test_without_nvml_the_reason_names_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = MachineMeter(rapl=tmp_path)
    meter.start()
    assert meter.stop().why_no_gpu == "nvidia-ml-py is not installed: pip install 'enginebay[energy]'"
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert any(need.startswith("nvidia-ml-py") for need in extras["optional-dependencies"]["energy"])


# ---------------------------------------------------------------- ratios and rows


def capacity(label: str, rate: float, *, start: int = 0, width: float = 0.05, **changes) -> BackendCapacity:
    interval = Interval(low=rate * (1 - width), high=rate * (1 + width), confidence=0.95)
    values = {
        "label": label, "backend": label, "start_index": start, "simulated": False, "transport": "http",
        "engine_version": None, "outcome": "found", "rate_rps": rate, "interval_rps": interval, "probes": (),
        "cost": Cost(why_not={"cost_per_million_good_tokens": "no price"}),
    }  # fmt: skip
    return BackendCapacity(**(values | changes))


def test_one_search_each_gives_a_ratio_with_the_noise_of_both_and_decides_nothing() -> None:
    found = capacity_ratio([capacity("a", 10.0)], [capacity("b", 20.0)])
    assert (found.ratio, found.unit, found.outcome) == (pytest.approx(2.0), "one search each", "undecided")
    assert found.interval is not None
    # Two equal relative errors make one that is the root of two larger.
    assert math.log(found.interval.high / 2.0) == pytest.approx(math.sqrt(2) * 0.05, rel=0.05)
    assert "start" in found.why


def test_three_starts_a_side_decide_by_their_own_scatter() -> None:
    one = [capacity("a", rate, start=start) for start, rate in enumerate((10.0, 10.2, 9.9))]
    other = [capacity("b", rate, start=start) for start, rate in enumerate((20.1, 20.3, 19.9))]
    found = capacity_ratio(one, other)
    assert (found.unit, found.outcome) == ("starts", "higher")
    assert capacity_ratio(other, one).outcome == "lower"
    apart = capacity_ratio(one, [capacity("b", rate, start=start) for start, rate in enumerate((5.0, 12.0, 20.0))])
    assert apart.outcome == "undecided"


def test_what_may_not_be_compared_is_not() -> None:
    with pytest.raises(NotComparable, match="transports"):
        capacity_ratio([capacity("a", 1.0)], [capacity("b", 1.0, transport="in_process")])
    assert capacity_ratio([capacity("a", 1.0)], [capacity("b", 1.0, simulated=True)]).why == "no verdict (simulated)"
    unfound = capacity("b", 1.0, outcome="at least", interval_rps=None)
    assert "b was not found" in capacity_ratio([capacity("a", 1.0)], [unfound]).why


def test_the_rows_and_sentences_tell_what_was_found_and_what_could_not_be() -> None:
    result = CapacityResult(
        created_at="2026-01-01T00:00:00+00:00", model="m", workload="words", seed=0, levels=LEVELS,
        environment=ENVIRONMENT,
        capacities=(capacity("a", 10.0), capacity("b", 3.0, outcome="at most", interval_rps=None)),
    )  # fmt: skip
    rows = capacity_rows(result)
    assert [len(row) for row in rows] == [len(CAPACITY_HEADER)] * 2
    assert rows[0][:3] == ("a", "10 requests/s", "9.5 to 10.5 (95%)")
    assert rows[1][1] == "at most 3 requests/s"
    sentences = capacity_sentences(result)
    assert sentences[0] == "The capacities of b and a are not compared: the capacity of b was not found."
    assert "a bears 10 requests/s (9.5 to 10.5 (95%)) with ttft p95 at most 0.5 s" in sentences[1]
    assert sentences[2] == "b bore no rate that was tried: its capacity is at most 3 requests/s."
    assert sentences[3:] == ["No cost: no price."]


def test_the_config_in_the_documentation_loads_and_names_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "capacity.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    capacity = parse_config(block, environment={}).bench.capacity
    assert (capacity.percentile, capacity.max_probes, capacity.price_per_hour) == (95.0, 12, {"reference": 0.35})
    assert all(f"`{name}`" in page or f"{name}:" in page for name in CapacityConfig.model_fields)
