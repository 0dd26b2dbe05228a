"""Each kind of arrivals has the dispersion and the memory of its name. Wrong ones, told of in the field, are found."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from loadtest_fakes import planned

from enginebay.errors import LoadTestError
from enginebay.loadtest.arrivals import deal, deal_users, offsets_of, sweep_rates
from enginebay.loadtest.arrivals.rates import Ramp, Steps
from enginebay.loadtest.plan import Load, PlannedRequest, Step
from enginebay.statistics.arrival_tests import dispersion_p_value, independence_p_value
from enginebay.statistics.dispersion import (
    autocorrelation,
    coefficient_of_variation,
    counts_per_window,
    gaps_between,
    index_of_dispersion,
)

NUM = 20_000
RATE = 50.0
ERROR = 4 / math.sqrt(NUM)
"""Four standard errors of a mean or an autocorrelation of NUM values."""
CONSTANT, POISSON = Load(rate=RATE, arrivals="constant"), Load(rate=RATE, arrivals="poisson")
BURSTY = Load(rate=RATE, arrivals="gamma", burstiness=0.25)
STEADY = Load(rate=RATE, arrivals="gamma", burstiness=16.0)
RAMP = Load(arrivals="ramp", rate=10.0, end_rate=190.0, duration_s=200.0)
STEPS = Load(
    arrivals="steps",
    steps=(Step(rate=20, duration_s=200), Step(rate=0, duration_s=50), Step(rate=160, duration_s=100)),
)


def poisson(seed: int = 3) -> list[float]:
    return offsets_of(POISSON, NUM, seed=seed)


def looks_poisson(offsets: Sequence[float], *, rate: float = RATE) -> bool:
    """Both tests at one in a thousand."""
    gaps = gaps_between([0.0, *offsets])
    counts = counts_per_window(offsets, window_s=10 / rate)
    return dispersion_p_value(counts) > 0.001 and independence_p_value(gaps, num_lags=20) > 0.001


# ---------------------------------------------------------------- each kind is what it is called


def test_constant_arrivals_are_equally_spaced_to_the_last_bit_and_do_not_drift() -> None:
    offsets = offsets_of(Load(rate=3.0, arrivals="constant"), 100_001, seed=0)
    assert offsets[0] == 0.0
    assert offsets[-1] == 100_000 / 3.0
    counts = counts_per_window(offsets_of(Load(rate=10.0, arrivals="constant"), 1000, seed=0), window_s=1.0)
    assert index_of_dispersion(counts) == 0.0


@pytest.mark.parametrize("load", [POISSON, BURSTY, STEADY], ids=str)
def test_random_arrivals_have_the_rate_the_spread_and_the_independence_of_their_name(load: Load) -> None:
    gaps = gaps_between([0.0, *offsets_of(load, NUM, seed=3)])
    variation = 1 / math.sqrt(load.burstiness or 1.0)
    assert sum(gaps) / len(gaps) == pytest.approx(1 / RATE, rel=ERROR * variation)
    # The variance of a sample's variation grows with the fourth moment: twice as wide for bursts.
    assert coefficient_of_variation(gaps) == pytest.approx(variation, rel=2 * ERROR * max(1.0, variation))
    assert all(abs(autocorrelation(gaps, lag=lag)) < ERROR for lag in (1, 2, 4, 8, 16))
    assert independence_p_value(gaps, num_lags=20) > 0.001


def test_poisson_counts_are_as_dispersed_as_a_poisson_process_says() -> None:
    assert all(looks_poisson(poisson(seed)) for seed in range(8))


@pytest.mark.parametrize(("load", "bound"), [(BURSTY, "above"), (STEADY, "below")], ids=str)
def test_bursts_are_over_dispersed_and_even_arrivals_under_dispersed(load: Load, bound: str) -> None:
    dispersion = index_of_dispersion(counts_per_window(offsets_of(load, NUM, seed=3), window_s=1.0))
    # In long windows the index goes to the squared variation of the gaps, which is 1 / burstiness.
    assert dispersion > 2 if bound == "above" else dispersion < 0.25
    assert not looks_poisson(offsets_of(load, NUM, seed=3))


@pytest.mark.parametrize("load", [RAMP, STEPS], ids=["ramp", "steps"])
def test_a_changing_rate_is_a_poisson_process_once_time_is_measured_in_expected_arrivals(load: Load) -> None:
    offsets = offsets_of(load, None, seed=3)
    assert looks_poisson([expected_until(load, offset) for offset in offsets], rate=1.0)
    assert not looks_poisson(offsets, rate=100.0)


def expected_until(load: Load, instant: float) -> float:
    """By integrating the rate in small steps: nothing of what the schedule computes with."""
    if load.arrivals == "ramp":
        assert load.rate is not None
        assert load.end_rate is not None
        assert load.duration_s is not None
        return load.rate * instant + (load.end_rate - load.rate) * instant**2 / (2 * load.duration_s)
    begins = np.cumsum([0.0, *(step.duration_s for step in load.steps)])
    spent = [min(max(0.0, instant - begin), step.duration_s) for begin, step in zip(begins, load.steps, strict=False)]
    return sum(step.rate * seconds for step, seconds in zip(load.steps, spent, strict=True))


def test_a_ramp_and_steps_have_the_number_of_arrivals_that_their_rates_give_and_end_in_time() -> None:
    for load, num_expected, ends_at in ((RAMP, 20_000, 200), (STEPS, 20_000, 350)):
        offsets = offsets_of(load, None, seed=5)
        assert len(offsets) == pytest.approx(num_expected, abs=4 * math.sqrt(num_expected))
        assert offsets == sorted(offsets)
        assert offsets[-1] <= ends_at
    assert not [offset for offset in offsets_of(STEPS, None, seed=5) if 200 < offset <= 250]  # the pause


def test_a_ramp_can_fall_and_a_rate_that_stays_is_no_special_case() -> None:
    assert Ramp(10.0, 2.0, 100.0).instant(600.0) == pytest.approx(100.0)
    assert Ramp(5.0, 5.0, 10.0).instant(25.0) == pytest.approx(5.0)
    assert Steps((Step(rate=2, duration_s=5), Step(rate=4, duration_s=5))).instant(20.0) == pytest.approx(7.5)


def test_a_sweep_is_one_poisson_process_for_each_rate_and_none_repeats_another() -> None:
    rates = sweep_rates(1.0, 16.0, num_rates=5, spacing="geometric")
    assert rates == pytest.approx((1.0, 2.0, 4.0, 8.0, 16.0))
    assert sweep_rates(1.0, 5.0, num_rates=3) == pytest.approx((1.0, 3.0, 5.0))
    schedules = [offsets_of(Load(rate=rate, arrivals="poisson"), NUM, seed=0) for rate in rates]
    assert all(looks_poisson(offsets, rate=rate) for rate, offsets in zip(rates, schedules, strict=True))
    # One pattern stretched over all rates would be measured five times, and mistaken for five.
    patterns = [np.asarray(gaps_between(offsets)) * rate for rate, offsets in zip(rates, schedules, strict=True)]
    assert all(abs(np.corrcoef(patterns[0], other)[0, 1]) < ERROR for other in patterns[1:])


def test_a_replayed_trace_keeps_its_dispersion_and_its_memory_at_any_speed() -> None:
    gaps = np.repeat(np.random.default_rng(1).exponential(size=4000), 3)  # each gap thrice: it remembers
    trace = [0.0, *np.cumsum(gaps).tolist()]
    once = offsets_of(Load(arrivals="trace", trace="t"), None, seed=0, trace_offsets=trace)
    fast = offsets_of(Load(arrivals="trace", trace="t", speed=8.0), None, seed=9, trace_offsets=trace)
    assert once == trace
    assert fast == pytest.approx([offset / 8 for offset in trace])
    for lag in (1, 2, 3):
        assert autocorrelation(gaps_between(fast), lag=lag) == pytest.approx(autocorrelation(gaps.tolist(), lag=lag))
    assert coefficient_of_variation(gaps_between(fast)) == pytest.approx(coefficient_of_variation(gaps.tolist()))
    assert autocorrelation(gaps_between(fast), lag=1) > 0.5


# ---------------------------------------------------------------- mutants: the faults of the field are found


def workers_with_one_seed() -> list[float]:
    """Four workers draw for themselves, each a quarter of the rate, all from the same seed."""
    one = offsets_of(Load(rate=RATE / 4, arrivals="poisson"), NUM // 4, seed=3)
    return sorted(offset for offset in one for _ in range(4))


def one_seed_a_little_apart() -> list[float]:
    """The same, and each worker starts some milliseconds after the one before."""
    one = offsets_of(Load(rate=RATE / 4, arrivals="poisson"), NUM // 4, seed=3)
    return sorted(offset + 0.004 * worker for offset in one for worker in range(4))


def constant_that_is_random() -> list[float]:
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(1 / RATE, 0.2 / RATE, size=NUM)).tolist()


def gaps_that_repeat() -> list[float]:
    """The same hundred gaps again and again."""
    return np.cumsum(np.tile(np.random.default_rng(3).exponential(1 / RATE, size=100), NUM // 100)).tolist()


def gaps_with_a_memory() -> list[float]:
    rng = np.random.default_rng(3)
    rate = np.repeat(np.exp(rng.normal(0, 0.3, size=NUM // 50)), 50)
    return np.cumsum(rng.exponential(1 / RATE, size=NUM) * rate).tolist()


MUTANTS: list[Callable[[], list[float]]] = [
    workers_with_one_seed,
    one_seed_a_little_apart,
    constant_that_is_random,
    gaps_that_repeat,
    gaps_with_a_memory,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_what_is_no_poisson_process_does_not_look_like_one(mutant: Callable[[], list[float]]) -> None:
    assert not looks_poisson(mutant())


def looks_constant(offsets: Sequence[float]) -> bool:
    return coefficient_of_variation(gaps_between(offsets)) < 1e-9


def looks_bursty(offsets: Sequence[float]) -> bool:
    """As a gamma process of shape 1/4: gaps that vary twice as much as their mean, and remember nothing."""
    gaps = gaps_between([0.0, *offsets])
    is_spread = abs(coefficient_of_variation(gaps) / 2 - 1) < 4 * ERROR
    return is_spread and independence_p_value(gaps, num_lags=20) > 0.001


def looks_like(load: Load) -> Callable[[Sequence[float]], bool]:
    return lambda offsets: looks_poisson([expected_until(load, offset) for offset in offsets], rate=1.0)


def shuffled_gaps(offsets: Sequence[float]) -> list[float]:
    return np.cumsum(np.random.default_rng(0).permutation(gaps_between([0.0, *offsets]))).tolist()


def remembers(offsets: Sequence[float]) -> bool:
    return autocorrelation(gaps_between(offsets), lag=1) > 0.5


A_TRACE = np.cumsum(np.repeat(np.random.default_rng(1).exponential(size=4000), 3)).tolist()
MUTANTS_OF_A_KIND = {
    "constant: random about its step": (looks_constant, offsets_of(CONSTANT, NUM, seed=3), constant_that_is_random()),
    "gamma: Poisson in its stead": (looks_bursty, offsets_of(BURSTY, NUM, seed=3), poisson()),
    "gamma: sorted gaps": (
        looks_bursty,
        offsets_of(BURSTY, NUM, seed=3),
        np.cumsum(np.sort(gaps_between([0.0, *offsets_of(BURSTY, NUM, seed=3)]))).tolist(),
    ),
    "ramp: its mean rate all the time": (
        looks_like(RAMP),
        offsets_of(RAMP, None, seed=3),
        offsets_of(Load(rate=100.0, arrivals="poisson"), NUM, seed=3),
    ),
    "ramp: evenly within each second": (
        looks_like(RAMP),
        offsets_of(RAMP, None, seed=3),
        [second + index / (10 + second) for second in range(180) for index in range(10 + second)],
    ),
    "steps: their mean rate all the time": (
        looks_like(STEPS),
        offsets_of(STEPS, None, seed=3),
        offsets_of(Load(rate=NUM / 350, arrivals="poisson"), NUM, seed=3),
    ),
    "trace: gaps of its distribution, drawn anew": (
        remembers,
        offsets_of(Load(arrivals="trace", trace="t", speed=3.0), None, seed=0, trace_offsets=A_TRACE),
        shuffled_gaps(A_TRACE),
    ),
}


@pytest.mark.parametrize("name", MUTANTS_OF_A_KIND)
def test_the_test_of_each_kind_takes_the_real_one_and_finds_the_wrong_one(name: str) -> None:
    looks_right, real, mutant = MUTANTS_OF_A_KIND[name]
    assert looks_right(real)
    assert not looks_right(mutant)


def test_a_schedule_rescaled_to_its_rate_would_have_lost_the_variance_of_its_length() -> None:
    """Over seeds, the end of n Poisson arrivals varies by sqrt(n) gaps; a rescaled schedule always ends alike."""
    ends = [offsets_of(POISSON, 400, seed=seed)[-1] for seed in range(400)]
    assert coefficient_of_variation(ends) == pytest.approx(1 / math.sqrt(400), rel=4 / math.sqrt(2 * 400))
    rescaled = [offset * 8.0 / offset for offset in ends]
    assert coefficient_of_variation(rescaled) == pytest.approx(0.0, abs=1e-12)


def test_the_tests_accept_a_poisson_process_as_often_as_they_say() -> None:
    """A check that never fails, or always, would pass the tests above for the wrong reason."""
    values = [dispersion_p_value(counts_per_window(offsets_of(POISSON, 2000, seed=seed), 0.2)) for seed in range(300)]
    memory = [independence_p_value(gaps_between(offsets_of(POISSON, 2000, seed=s)), num_lags=10) for s in range(300)]
    for p_values in (values, memory):
        share = sum(p_value < 0.1 for p_value in p_values) / 300
        assert share == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 300))


# ---------------------------------------------------------------- seeds


@pytest.mark.parametrize("load", [POISSON, BURSTY, RAMP, STEPS], ids=str)
def test_a_seed_gives_one_schedule_and_another_seed_another(load: Load) -> None:
    assert offsets_of(load, 100, seed=1) == offsets_of(load, 100, seed=1)
    assert offsets_of(load, 100, seed=1) != offsets_of(load, 100, seed=2)


def test_a_longer_schedule_begins_with_the_shorter_one() -> None:
    assert offsets_of(POISSON, 9000, seed=1)[:100] == offsets_of(POISSON, 100, seed=1)


def test_a_load_without_an_end_and_one_without_arrivals_are_refused() -> None:
    with pytest.raises(LoadTestError, match="the number of requests must be given"):
        offsets_of(POISSON, None, seed=0)
    with pytest.raises(LoadTestError, match="nothing arrives"):
        offsets_of(Load(arrivals="ramp", rate=0.001, end_rate=0.001, duration_s=1.0), None, seed=0)


# ---------------------------------------------------------------- shares for several processes


def arriving(offsets: Sequence[float]) -> list[PlannedRequest]:
    return [planned(index, offset_s=offset) for index, offset in enumerate(offsets)]


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
@pytest.mark.parametrize("load", [POISSON, CONSTANT, BURSTY, RAMP], ids=str)
def test_dealt_arrivals_are_together_the_very_process_that_was_planned(load: Load, num_workers: int) -> None:
    requests = arriving(offsets_of(load, 2000, seed=3))
    shares = deal(requests, num_workers)
    assert sorted((request for share in shares for request in share), key=lambda request: request.index) == requests
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_dealt_arrivals_look_poisson_where_drawn_again_they_would_not() -> None:
    shares = deal(arriving(poisson()), 4)
    together = sorted(request.offset_s or 0.0 for share in shares for request in share)
    assert looks_poisson(together)
    assert not looks_poisson(workers_with_one_seed())


def test_the_turns_of_a_conversation_stay_with_one_worker() -> None:
    conversations = [(0, None), (1, 0), (2, 1), (3, None), (4, 3), (5, None)]
    requests = [PlannedRequest(index=index, num_prompt_tokens=1, after=after, sampling=planned(0).sampling)
                for index, after in conversations]  # fmt: skip
    assert [[request.index for request in share] for share in deal(requests, 2)] == [[0, 1, 2, 5], [3, 4]]


def test_users_are_dealt_as_equally_as_can_be() -> None:
    assert deal_users(10, 4) == [3, 3, 2, 2]
    assert deal_users(1, 3) == [1, 0, 0]
    with pytest.raises(ValueError, match="at least one worker"):
        deal([], 0)
