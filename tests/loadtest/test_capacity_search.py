"""The search alone, against queues whose capacity theory knows; no clock and no backend."""

from __future__ import annotations

import math

import numpy as np
import pytest

from enginebay.loadtest.capacity.misses import Misses, autocorrelation_time, count_misses
from enginebay.loadtest.capacity.posterior import Observation
from enginebay.loadtest.capacity.search import CapacitySearch
from enginebay.testing.known_capacity import KnownQueue

LEVEL_S, ALLOWED = 0.5, 0.1
QUEUE = KnownQueue(num_servers=8, service_s=1.0)


@pytest.fixture(scope="module")
def capacity() -> float:
    return QUEUE.capacity_rps(LEVEL_S, allowed_ratio=ALLOWED)


def probe(rate: float, rng: np.random.Generator, *, num_requests: int = 1500) -> Observation:
    """As a run would show it, the first tenth left out."""
    arrived_at = np.cumsum(rng.exponential(1 / rate, num_requests))
    is_missed = (QUEUE.waits(arrived_at) > LEVEL_S)[num_requests // 10 :]
    misses = {"ttft_s": count_misses(is_missed.tolist(), allowed_ratio=ALLOWED)}
    return Observation(rate_rps=(num_requests - 1) / float(arrived_at[-1] - arrived_at[0]), misses=misses)


def searched(start_rps: float, seed: int, *, max_probes: int = 12) -> CapacitySearch:
    rng = np.random.default_rng(seed)
    search = CapacitySearch(start_rps=start_rps, max_probes=max_probes)
    while (rate := search.next_rate()) is not None:
        search.observe(probe(rate, rng))
    return search


def test_twelve_probes_find_the_known_capacity_within_5_percent_and_the_interval_contains_it(capacity: float) -> None:
    estimates = [searched(capacity * factor, seed).estimate for seed, factor in enumerate((0.05, 0.2, 0.7, 1.3) * 3)]
    errors = [abs(estimate.rate_rps / capacity - 1) for estimate in estimates]
    assert sum(error <= 0.05 for error in errors) >= 11
    covered = sum(low <= capacity <= high for low, high in (estimate.interval_rps for estimate in estimates))
    assert covered >= 10
    assert np.mean([estimate.half_width_ratio for estimate in estimates]) < 0.06


def test_estimates_err_to_both_sides_alike(capacity: float) -> None:
    logs = [math.log(searched(capacity / 3, 100 + seed).estimate.rate_rps / capacity) for seed in range(12)]
    assert abs(np.mean(logs)) < 0.02


def test_the_queue_is_as_theory_says() -> None:
    """Simulated for a long time, at the rate where a tenth should wait longer than the level."""
    rate = QUEUE.capacity_rps(LEVEL_S, allowed_ratio=ALLOWED)
    arrived_at = np.cumsum(np.random.default_rng(5).exponential(1 / rate, 400_000))
    assert np.mean(QUEUE.waits(arrived_at)[4000:] > LEVEL_S) == pytest.approx(ALLOWED, rel=0.03)
    single = KnownQueue(num_servers=1, service_s=2.0)
    # M/D/1, nobody waits with probability 1 - load.
    assert single.wait_probability(0.3, 0.0) == pytest.approx(0.6, rel=1e-9)


def borne(rate: float) -> Observation:
    return Observation(rate_rps=rate, misses={"ttft_s": Misses.of(0, 500, allowed_ratio=0.05)})


def broken(rate: float, *, served_rps: float | None = None) -> Observation:
    misses = {"ttft_s": Misses.of(400, 500, allowed_ratio=0.05)}
    return Observation(rate_rps=rate, misses=misses, is_saturated=served_rps is not None, served_rps=served_rps)


def test_rates_grow_until_one_is_not_borne_and_shrink_until_one_is() -> None:
    search = CapacitySearch(start_rps=2.0)
    assert search.next_rate() == 2.0
    search.observe(borne(2.0))
    assert search.next_rate() == 8.0
    search.observe(broken(8.0))
    assert 2.0 < (search.next_rate() or 0) < 8.0
    falling = CapacitySearch(start_rps=2.0)
    falling.observe(broken(2.0))
    assert falling.next_rate() == 0.5


def test_what_a_saturated_engine_finished_bounds_what_is_tried_next() -> None:
    search = CapacitySearch(start_rps=64.0)
    search.observe(broken(64.0, served_rps=3.0))
    assert search.next_rate() == 4.0  # not below a sixteenth at once
    search.observe(broken(4.0, served_rps=3.0))
    assert search.next_rate() == pytest.approx(1.0)
    search.observe(borne(1.0))
    assert search.estimate.interval_rps[1] < 4.2


def test_the_search_ends_with_its_probes_or_its_precision(capacity: float) -> None:
    assert len(searched(capacity / 2, 1, max_probes=5).observations) == 5
    search = CapacitySearch(start_rps=capacity / 2, precision=0.5)
    rng = np.random.default_rng(3)
    while (rate := search.next_rate()) is not None:
        search.observe(probe(rate, rng))
    assert len(search.observations) < 8
    assert search.estimate.half_width_ratio <= 0.5


def test_the_level_that_breaks_first_is_the_capacity(capacity: float) -> None:
    """A second level that always holds changes nothing; one that breaks at half of the rate halves the capacity."""

    def estimate(second: float) -> float:
        rng = np.random.default_rng(11)
        search = CapacitySearch(start_rps=capacity / 2)
        while (rate := search.next_rate()) is not None:
            seen = probe(rate, rng)
            other = probe(rate / second, rng).misses["ttft_s"]
            search.observe(Observation(rate_rps=seen.rate_rps, misses={**seen.misses, "e2e_s": other}))
        return search.estimate.rate_rps

    assert estimate(10.0) == pytest.approx(capacity, rel=0.06)
    assert estimate(0.5) == pytest.approx(capacity / 2, rel=0.06)


def test_bursts_of_misses_count_as_few_observations() -> None:
    rng = np.random.default_rng(0)
    independent = rng.random(4000) < 0.1
    bursts = np.repeat(rng.random(400) < 0.1, 10)
    assert autocorrelation_time(independent.tolist()) == pytest.approx(1.0, abs=0.3)
    assert autocorrelation_time(bursts.tolist()) == pytest.approx(10.0, rel=0.25)
    assert autocorrelation_time([False] * 50) is None
    assert autocorrelation_time([]) is None


def test_more_requests_make_the_interval_narrower() -> None:
    def width(num_requests: int) -> float:
        search = CapacitySearch(start_rps=1.0)
        for rate, ratio in ((1.0, 0.0), (2.0, 0.02), (2.2, 0.05), (2.5, 0.15), (4.0, 0.9)):
            misses = {"ttft_s": Misses.of(round(ratio * num_requests), num_requests, allowed_ratio=0.05)}
            search.observe(Observation(rate_rps=rate, misses=misses))
        return search.estimate.half_width_ratio

    assert width(200) > width(1000) > width(10_000)
    assert width(10_000) < 0.05


def test_probes_that_contradict_each_other_near_the_capacity_do_not_send_the_estimate_away() -> None:
    """Chance let a faster probe pass where slower ones failed by a little; none failed clearly."""
    search = CapacitySearch(start_rps=2.45)
    seen = ((2.45, 0, None), (9.81, 67, 43), (9.96, 54, 61), (9.46, 34, 45), (9.13, 0, None), (9.73, 0, None))
    for rate, num_missed, time in (*seen, (10.19, 9, 4)):
        misses = Misses(allowed_ratio=0.05, num_requests=1000, num_missed=num_missed, autocorrelation_time=time)
        search.observe(Observation(rate_rps=rate, misses={"ttft_s": misses}))
    assert search.estimate.rate_rps == pytest.approx(10, rel=0.1)
    assert search.estimate.interval_rps[1] < 15
