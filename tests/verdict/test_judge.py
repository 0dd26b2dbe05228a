import math

import msgspec
import numpy as np
import pytest
from drawn_results import EIGHT_USERS, drawn_result, drawn_runs, metrics, result, run
from scipy import stats

from enginebay.errors import NotComparable
from enginebay.loadtest.metrics import ServiceLevels
from enginebay.loadtest.plan import Load
from enginebay.loadtest.result import Failure, InvalidReason
from enginebay.statistics.power import starts_to_differ
from enginebay.verdict.comparison.judge import judge, judge_between
from enginebay.verdict.verdict import MetricVerdict, Verdict, load_verdict, save_verdict

REASON = InvalidReason(code="errors", detail="many")
ONE_USER = Load(users=1)


def outcome(verdict: Verdict, metric: str = "output_tokens_per_s", second: str = "b", load: Load = EIGHT_USERS) -> str:
    return found(verdict, metric, second, load).outcome


def found(
    verdict: Verdict, metric: str = "output_tokens_per_s", second: str = "b", load: Load = EIGHT_USERS
) -> MetricVerdict:
    [one] = [one for one in verdict.metrics if (one.metric, one.second, one.load) == (metric, second, load)]
    return one


def speeds(first: list[float], second: list[float], **changes):
    runs = [
        run(label, index, metrics(speed), **changes)
        for label, values in (("a", first), ("b", second))
        for index, speed in enumerate(values)
    ]
    return result(runs, labels=["a", "b"])


# ---------------------------------------------------------------- what is found


def test_a_faster_engine_is_faster_in_throughput_and_in_latency() -> None:
    verdict = judge(drawn_result({"a": 1.0, "b": 1.5}))
    assert {metric.outcome for metric in verdict.metrics} == {"faster"}
    throughput, wait = found(verdict), found(verdict, "ttft_scheduled_s.p50")
    assert throughput.ratio == pytest.approx(1.5, rel=0.1)
    assert wait.ratio == pytest.approx(1 / 1.5, rel=0.1)
    assert "b against a: faster in 7 of 7 figures" in verdict.headline


def test_a_slower_engine_is_slower_in_both() -> None:
    assert {metric.outcome for metric in judge(drawn_result({"a": 1.0, "b": 0.7})).metrics} == {"slower"}


def test_figures_may_point_different_ways() -> None:
    runs = [
        run(label, index, metrics(1.0 * luck, first_token=first_token))
        for label, first_token in (("a", 1.0), ("b", 2.0))
        for index, luck in enumerate([1.0, 1.01, 0.99, 1.005])
    ]
    verdict = judge(result(runs, labels=["a", "b"]))
    assert outcome(verdict) == "equivalent"
    assert outcome(verdict, "ttft_scheduled_s.p50") == "slower"


def test_many_even_starts_are_equivalent_and_few_are_undecided() -> None:
    assert outcome(judge(drawn_result({"a": 1.0, "b": 1.0}, num_starts=60, seed=3))) == "equivalent"
    few = found(judge(drawn_result({"a": 1.0, "b": 1.0}, num_starts=4, seed=3)))
    assert few.outcome == "undecided"
    assert few.why_undecided == "the starts scatter too much to tell"


def test_a_difference_that_is_sure_and_smaller_than_the_margin_is_equivalent() -> None:
    drawn = drawn_result({"a": 1.0, "b": 1.02}, noise=0.002)
    assert found(judge(drawn)).p_difference < 0.05
    assert outcome(judge(drawn)) == "equivalent"
    assert outcome(judge(drawn, margin=0.005)) == "faster", "who cares for half a per cent says so"


def test_the_interval_is_that_of_the_paired_t_test_at_holms_level() -> None:
    first, second = [1.0, 1.1, 0.9, 1.05], [1.2, 1.25, 1.12, 1.22]
    verdict = judge(speeds(first, second))
    one = found(verdict)
    known = stats.ttest_1samp(np.log(second) - np.log(first), 0)
    assert one.method == "paired t"
    assert one.ratio == pytest.approx(math.exp(np.mean(np.log(second) - np.log(first))))
    low, high = known.confidence_interval(one.interval.confidence)
    assert (one.interval.low, one.interval.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert one.interval.confidence >= 0.95


def test_what_drifts_for_all_backends_of_a_round_is_taken_out_by_pairing() -> None:
    drawn = drawn_result({"a": 1.0, "b": 1.1}, noise=0.01, drift=0.3, num_starts=6)
    assert outcome(judge(drawn)) == "faster"
    a, b = (result([one for one in drawn.runs if one.label == label], labels=[label]) for label in "ab")
    assert outcome(judge_between(a, b)) == "undecided"


def test_the_unit_is_the_start_however_many_runs_or_requests_it_has() -> None:
    alone = drawn_result({"a": 1.0, "b": 1.1}, num_starts=4)
    repeated = [msgspec.structs.replace(one, repeat=repeat) for one in alone.runs for repeat in range(10)]
    many = msgspec.structs.replace(alone, runs=repeated)
    assert found(judge(many)).num_starts_first == 4
    assert found(judge(many)).interval.low == pytest.approx(found(judge(alone)).interval.low)


def test_repeats_of_a_start_give_their_mean_and_not_the_first_of_them() -> None:
    runs = [
        run(label, index, metrics(speed * luck * factor), repeat=repeat)
        for label, speed in (("a", 1.0), ("b", 1.5))
        for index, luck in enumerate((1.0, 1.02, 0.99))
        for repeat, factor in enumerate((0.5, 2.0) if label == "b" else (0.8, 1.25))
    ]
    assert found(judge(result(runs, labels=["a", "b"]))).ratio == pytest.approx(1.5)


def test_from_twenty_starts_on_the_bootstrap_decides_and_the_same_way_each_time() -> None:
    drawn = drawn_result({"a": 1.0, "b": 1.1}, num_starts=20)
    assert found(judge(drawn)).method == "paired bootstrap"
    assert judge(drawn) == judge(drawn)


# ---------------------------------------------------------------- what is not


@pytest.mark.parametrize(("num_starts", "status"), [(2, "too few starts"), (3, "judged")])
def test_fewer_than_three_starts_decide_nothing(num_starts, status) -> None:
    verdict = judge(drawn_result({"a": 1.0, "b": 5.0}, num_starts=num_starts, noise=0.001))
    assert verdict.status == status
    assert outcome(verdict) == ("undecided" if num_starts == 2 else "faster")
    assert (found(verdict).interval is None) == (num_starts == 2)


@pytest.mark.parametrize("simulated", ["a", "b"])
def test_a_simulated_side_gets_no_verdict_whichever_it_is(simulated) -> None:
    drawn = drawn_result({"a": 1.0, "b": 5.0})
    runs = [msgspec.structs.replace(one, simulated=one.label == simulated) for one in drawn.runs]
    verdict = judge(msgspec.structs.replace(drawn, runs=runs))
    assert verdict.status == "simulated"
    assert verdict.headline.startswith("No verdict (simulated)")
    assert {one.outcome for one in verdict.metrics} == {"undecided"}
    assert {one.ratio for one in verdict.metrics} == {None}


def with_invalid(drawn, label: str, *numbers: int):
    runs = [
        msgspec.structs.replace(one, valid=False, invalid_reasons=[REASON])
        if one.label == label and one.start_index in numbers
        else one
        for one in drawn.runs
    ]
    return msgspec.structs.replace(drawn, runs=runs)


def test_a_side_with_an_invalid_run_cannot_win() -> None:
    verdict = judge(with_invalid(drawn_result({"a": 1.0, "b": 2.0}), "b", 1))
    one = found(verdict)
    assert (one.outcome, one.num_starts_first, one.num_starts_second) == ("undecided", 7, 7)
    assert one.why_undecided == "b had invalid runs, which cannot win"
    assert one.num_more_starts is None
    assert any(caveat.startswith("INVALID b, 8 users, start 2: errors: many") for caveat in verdict.caveats)


def test_a_side_with_an_invalid_run_can_lose() -> None:
    assert outcome(judge(with_invalid(drawn_result({"a": 1.0, "b": 0.5}), "b", 1))) == "slower"
    assert outcome(judge(with_invalid(drawn_result({"a": 0.5, "b": 1.0}), "a", 1))) == "faster"
    assert outcome(judge(with_invalid(drawn_result({"a": 1.0, "b": 0.5}), "a", 1))) == "undecided"


def test_a_side_with_an_invalid_run_is_not_equivalent_either() -> None:
    assert outcome(judge(with_invalid(drawn_result({"a": 1.0, "b": 1.0}, noise=0.001), "a", 0))) == "undecided"


def test_too_few_valid_starts_are_no_verdict_because_of_the_invalid_ones() -> None:
    assert judge(with_invalid(drawn_result({"a": 1.0, "b": 2.0}, num_starts=3), "b", 0)).status == "invalid"


def test_a_start_that_failed_counts_as_an_invalid_one() -> None:
    drawn = drawn_result({"a": 1.0, "b": 2.0}, num_starts=5)
    failure = Failure(label="b", load=None, error_class="StartFailed", message="no memory", start_index=4)
    runs = [one for one in drawn.runs if (one.label, one.start_index) != ("b", 4)]
    verdict = judge(msgspec.structs.replace(drawn, runs=runs, failures=(failure,)))
    assert outcome(verdict) == "undecided"
    assert "INVALID b, start 5: failed: StartFailed: no memory" in verdict.caveats


def test_a_run_that_was_cut_short_does_not_count() -> None:
    drawn = drawn_result({"a": 1.0, "b": 2.0}, num_starts=4)
    runs = [
        msgspec.structs.replace(one, status="partial") if (one.label, one.start_index) == ("b", 3) else one
        for one in drawn.runs
    ]
    assert found(judge(msgspec.structs.replace(drawn, runs=runs))).num_starts_second == 3


def test_starts_that_only_one_side_has_are_left_out_of_the_pairs() -> None:
    rng = np.random.default_rng(0)
    runs = [*drawn_runs("a", 1.0, num_starts=6, rng=rng), *drawn_runs("b", 1.0, num_starts=4, rng=rng)]
    assert found(judge(result(runs, labels=["a", "b"]))).num_starts_first == 4


def judged_with(*num_values: int) -> Verdict:
    """b is twice as fast as a; start by start, so many requests a run."""
    runs = [
        run(label, index, metrics(speed, num_values=number))
        for label, speed in (("a", 1.0), ("b", 2.0))
        for index, number in enumerate(num_values)
    ]
    return judge(result(runs, labels=["a", "b"]))


def test_a_percentile_of_too_few_requests_is_not_told() -> None:
    verdict = judged_with(28, 28, 28, 28)
    assert outcome(verdict, "e2e_s.p99") == "undecided"
    assert found(verdict, "e2e_s.p99").why_undecided == "a run has fewer than the 299 requests that tell it"
    assert outcome(verdict, "e2e_s.p50") == "faster"


@pytest.mark.parametrize(
    ("num_values", "tail"), [((299, 299, 299), 99), ((299, 298, 299), 95), ((59, 400, 59), 95), ((58, 59, 59), 90)]
)
def test_the_tail_is_told_by_the_best_percentile_that_every_run_can_tell(num_values, tail) -> None:
    verdict = judged_with(*num_values)
    told = {metric.metric for metric in verdict.metrics if not metric.metric.endswith(".p50")}
    assert {f"ttft_scheduled_s.p{tail}", f"e2e_s.p{tail}"} == {metric for metric in told if "_s.p" in metric}
    assert outcome(verdict, f"e2e_s.p{tail}") == "faster"


def test_a_figure_of_zero_has_no_ratio_and_does_not_spoil_the_others() -> None:
    runs = [
        run(label, index, metrics(speed, goodput=0.0 if label == "a" else 3.0))
        for label, speed in (("a", 1.0), ("b", 2.0))
        for index in range(4)
    ]
    verdict = judge(result(runs, labels=["a", "b"], slo=ServiceLevels(ttft_s=0.1)))
    assert outcome(verdict, "goodput_rps") == "undecided"
    assert outcome(verdict) == "faster"


def test_goodput_is_compared_only_where_there_are_service_levels() -> None:
    assert "goodput_rps" not in {one.metric for one in judge(drawn_result({"a": 1.0, "b": 2.0})).metrics}


def test_sides_whose_outputs_are_of_other_lengths_are_not_set_against_each_other() -> None:
    runs = [
        run(label, index, metrics(speed, num_output_tokens=num_tokens))
        for label, speed, num_tokens in (("a", 1.0, 30_000), ("b", 2.0, 27_000))
        for index in range(4)
    ]
    verdict = judge(result(runs, labels=["a", "b"]))
    assert (verdict.status, outcome(verdict)) == ("invalid", "undecided")
    assert [reason.code for reason in verdict.loads[0].against] == ["output_lengths_apart"]
    assert "outputs are 100.0 and 90.0 tokens long" in " ".join(verdict.caveats)


def test_loads_that_a_certificate_shows_apart_get_no_verdict() -> None:
    apart = InvalidReason(code="load_not_identical", detail="one byte differs")
    verdict = judge(drawn_result({"a": 1.0, "b": 2.0}), apart=[apart])
    assert (verdict.status, outcome(verdict)) == ("invalid", "undecided")
    assert verdict.loads[0].against == (apart,)
    assert verdict.headline == "No verdict (invalid): one byte differs."
    assert verdict.caveats == ("8 users: b is not set against a: load_not_identical: one byte differs",)


@pytest.mark.parametrize("num_starts", [1, 3])
def test_sides_that_may_not_be_compared_get_no_ratio_however_few_their_starts(num_starts) -> None:
    apart = InvalidReason(code="load_not_identical", detail="one byte differs")
    verdict = judge(drawn_result({"a": 1.0, "b": 2.0}, num_starts=num_starts), apart=[apart])
    assert verdict.status == "invalid"
    assert {one.ratio for one in verdict.metrics} == {None}


def test_the_headline_says_of_each_backend_that_has_no_verdict_that_it_has_none() -> None:
    drawn = drawn_result({"a": 1.0, "b": 2.0, "c": 3.0})
    runs = [msgspec.structs.replace(one, simulated=one.label == "c") for one in drawn.runs]
    verdict = judge(msgspec.structs.replace(drawn, runs=runs))
    assert verdict.headline == "b against a: faster in 7 of 7 figures; c against a: no verdict (simulated)."


def named_models(**models: tuple[str, str | None]):
    drawn = drawn_result({"a": 1.0, "b": 2.0})
    subjects = [
        msgspec.structs.replace(one, model=models[one.label][0], weights=models[one.label][1]) for one in drawn.subjects
    ]
    return judge(msgspec.structs.replace(drawn, subjects=subjects)).caveats


def test_other_models_are_told_and_other_names_for_the_same_weights_are_not() -> None:
    assert named_models(a=("m", None), b=("m", None)) == ()
    assert named_models(a=("m", "11"), b=("/models/m", "11")) == ()
    [unknown] = named_models(a=("m", None), b=("n", "11"))
    assert "nothing shows that their weights are the same: a m and b n" in unknown
    [other] = named_models(a=("m", "11"), b=("m", "22"))
    assert "did not run the same weights" in other


def test_a_backend_that_only_one_of_two_results_has_is_told_as_left_out() -> None:
    verdict = judge_between(drawn_result({"a": 1.0, "b": 1.0}), drawn_result({"a": 1.0, "c": 1.0}))
    assert "Only one of the results has b and c: not compared." in verdict.caveats
    alone = judge_between(drawn_result({"a": 1.0}), drawn_result({"b": 1.0}))
    assert not any("Only one" in caveat for caveat in alone.caveats)


def test_a_server_that_was_not_started_anew_is_told() -> None:
    drawn = drawn_result({"a": 1.0, "b": 2.0})
    subjects = [msgspec.structs.replace(one, is_restarted=one.label == "a") for one in drawn.subjects]
    [caveat] = judge(msgspec.structs.replace(drawn, subjects=subjects)).caveats
    assert caveat.startswith("b ran all the time and was not started anew")
    assert judge(drawn).caveats == ()


# ---------------------------------------------------------------- refused


def test_runs_over_different_transports_are_refused() -> None:
    drawn = drawn_result({"a": 1.0, "b": 2.0})
    runs = [msgspec.structs.replace(one, transport="in_process" if one.label == "b" else "http") for one in drawn.runs]
    with pytest.raises(NotComparable, match="different transports"):
        judge(msgspec.structs.replace(drawn, runs=runs))


def test_results_of_different_plans_are_refused() -> None:
    with pytest.raises(NotComparable, match="different plans"):
        judge_between(drawn_result({"a": 1.0}), drawn_result({"a": 1.0}, plan_sha256="cd" * 32))


def test_one_backend_alone_and_results_without_a_common_one_are_refused() -> None:
    with pytest.raises(NotComparable, match="two backends"):
        judge(drawn_result({"a": 1.0}))
    with pytest.raises(NotComparable, match="no backend in common: a, b against c, d"):
        judge_between(drawn_result({"a": 1.0, "b": 1.0}), drawn_result({"c": 1.0, "d": 1.0}))


# ---------------------------------------------------------------- several loads, several backends


def test_three_backends_under_two_loads_are_one_family() -> None:
    drawn = drawn_result({"a": 1.0, "b": 1.0, "c": 2.0}, loads=(ONE_USER, EIGHT_USERS), num_starts=5)
    verdict = judge(drawn)
    assert verdict.subjects == ("a", "b", "c")
    assert [(one.second, one.load) for one in verdict.loads] == [
        ("b", ONE_USER), ("b", EIGHT_USERS), ("c", ONE_USER), ("c", EIGHT_USERS),
    ]  # fmt: skip
    assert verdict.num_hypotheses == 8, "throughput and latency of each: the figures made up here move together"
    strictest = max(one.interval.confidence for one in verdict.metrics)
    assert strictest == pytest.approx(1 - 0.05 / 8)
    assert (outcome(verdict, second="b"), outcome(verdict, second="c")) == ("undecided", "faster")


def test_another_backend_can_be_the_one_that_others_are_set_against() -> None:
    verdict = judge(drawn_result({"a": 1.0, "b": 2.0}), first="b")
    assert outcome(verdict, second="a") == "slower"


def test_figures_that_are_the_same_numbers_are_asked_once() -> None:
    fixed = judge(drawn_result({"a": 1.0, "b": 1.1}, num_starts=5))
    runs = [
        run(label, index, metrics(luck, num_output_tokens=29_000 + 137 * index + 91 * (label == "b")))
        for label, lucks in (("a", [1.0, 1.02, 0.99, 1.03]), ("b", [1.1, 1.09, 1.12, 1.15]))
        for index, luck in enumerate(lucks)
    ]
    assert judge(result(runs, labels=["a", "b"])).num_hypotheses == fixed.num_hypotheses + 1


# ---------------------------------------------------------------- two results


def test_two_versions_of_one_engine_are_compared_like_two_engines() -> None:
    verdict = judge_between(drawn_result({"vllm": 1.0}), drawn_result({"vllm": 0.7}, seed=1), names=("old", "new"))
    assert verdict.subjects == ("vllm (old)", "vllm (new)")
    assert outcome(verdict, second="vllm (new)") == "slower"
    assert (verdict.paired, found(verdict, second="vllm (new)").method) == (False, "Welch t")


def test_welchs_interval_is_that_of_scipy() -> None:
    first, second = drawn_result({"x": 1.0}, num_starts=5), drawn_result({"y": 1.2}, num_starts=7, seed=1, noise=0.1)
    one = found(judge_between(first, second), second="y")
    logs = [[math.log(each.metrics.output_tokens_per_s) for each in side.runs] for side in (first, second)]
    known = stats.ttest_ind(logs[1], logs[0], equal_var=False).confidence_interval(one.interval.confidence)
    assert (one.interval.low, one.interval.high) == pytest.approx((math.exp(known.low), math.exp(known.high)))
    assert (one.num_starts_first, one.num_starts_second) == (5, 7)


def test_another_machine_and_other_service_levels_are_told() -> None:
    first = drawn_result({"a": 1.0})
    other = msgspec.structs.replace(first.environment, cpu="Other CPU")
    second = drawn_result({"a": 1.0}, environment=other, slo=ServiceLevels(ttft_s=1.0))
    caveats = " ".join(judge_between(first, second).caveats)
    assert "different machines: cpu Example CPU @ 2.00GHz and Other CPU" in caveats
    assert "other service levels" in caveats
    assert "goodput_rps" not in {one.metric for one in judge_between(first, second).metrics}
    assert "goodput_rps" not in {one.metric for one in judge_between(second, first).metrics}
    assert "Versions" not in caveats


def test_an_upgrade_names_the_versions() -> None:
    first, second = drawn_result({"a": 1.0}), drawn_result({"a": 1.0})
    upgraded = msgspec.structs.replace(
        second, runs=[msgspec.structs.replace(one, engine_version="2") for one in second.runs]
    )
    assert "Versions: a 1 before, a 2 after." in judge_between(first, upgraded).caveats


# ---------------------------------------------------------------- how many more


def test_how_many_more_starts_would_decide_is_what_power_says() -> None:
    one = found(judge(drawn_result({"a": 1.0, "b": 1.06}, num_starts=4, seed=5)))
    assert one.outcome == "undecided"
    enough = starts_to_differ(
        math.log(one.ratio), one.spread_ratio, level=1 - one.interval.confidence, spread_degrees_of_freedom=3
    )
    assert one.num_more_starts == enough - 4


def test_so_many_more_starts_do_decide_in_four_of_five_cases() -> None:
    num_decided = num_tried = 0
    for seed in range(60):
        one = found(judge(drawn_result({"a": 1.0, "b": 1.1}, num_starts=5, seed=seed)))
        if one.outcome == "undecided" and one.num_more_starts is not None:
            again = drawn_result({"a": 1.0, "b": one.ratio}, num_starts=5 + one.num_more_starts, seed=1000 + seed)
            num_tried += 1
            num_decided += outcome(judge(again)) != "undecided"
    assert num_tried >= 10
    assert num_decided >= 0.8 * num_tried - 3 * math.sqrt(0.16 * num_tried)


# ---------------------------------------------------------------- saved


def test_a_verdict_is_read_back_as_it_was_saved(tmp_path) -> None:
    verdict = judge(drawn_result({"a": 1.0, "b": 1.3}))
    save_verdict(verdict, tmp_path / "verdict.json")
    assert load_verdict(tmp_path) == verdict
