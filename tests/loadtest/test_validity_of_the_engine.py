"""Whether the engine did the work of the plan, once, alone and as asked: each bound from both sides."""

from dataclasses import replace

import msgspec
import pytest
from validity_fakes import EIGHT_USERS, codes, load_of, ordinary_run, sample, unchecked, with_records

from enginebay.loadtest.metrics import ServiceLevels, run_metrics
from enginebay.loadtest.validity.checks import validity
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.lengths import lengths_as_planned
from enginebay.statistics.percentiles import num_values_needed


def num_prompt_tokens(evidence: Evidence) -> int:
    return sum(record.num_prompt_tokens or 0 for record in evidence.records)


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize(("num_failed", "found"), [(1, []), (2, ["errors"])])
def test_one_of_a_hundred_requests_may_fail(num_failed, found) -> None:
    evidence = ordinary_run(num_requests=100)
    failed = with_records(evidence, error_class=lambda record: "EngineDied" if record.index < num_failed else None)
    assert codes(failed) == found


def test_a_run_that_was_stopped_is_partial_and_nothing_else_is_held_against_it() -> None:
    assert codes(ordinary_run(status="partial", percentiles=(99.0,))) == ["partial"]


def test_requests_that_nobody_sent_are_missed_although_nobody_stopped_the_run() -> None:
    run = ordinary_run()
    records = run.records[:-1]
    samples = (sample(0.0), sample(1.0, num_output_tokens=100.0 + sum(len(record.arrivals) for record in records)))
    short = replace(run, records=records, metrics=run_metrics(records, ServiceLevels()), samples=samples)
    [reason] = validity(short).reasons
    assert (reason.code, reason.detail) == ("partial", "47 requests were answered or failed, 48 were planned")


# ---------------------------------------------------------------- prefix cache


def with_cached(evidence: Evidence, num_cached: int) -> Evidence:
    """In the usage, spread over the prompts so that none is more than its own length."""
    left = num_cached
    records = []
    for record in evidence.records:
        taken = min(left, (record.num_prompt_tokens or 0) - 1)
        left -= taken
        records.append(msgspec.structs.replace(record, num_cached_tokens=taken))
    assert left == 0
    return replace(evidence, records=records)


@pytest.mark.parametrize(("beyond", "found"), [(-3, []), (+3, ["prefix_cache"])])
def test_cached_tokens_of_the_usage_beyond_what_the_plan_shares_are_contamination(beyond, found) -> None:
    evidence = ordinary_run()
    bound = int(0.01 * num_prompt_tokens(evidence))
    # The cached tokens stand in one prompt, so that two of its tokens are granted.
    evidence = with_cached(replace(evidence, samples=()), bound + 2 + beyond)
    assert codes(evidence) == found


@pytest.mark.parametrize(("beyond", "found"), [(-3.0, []), (+3.0, ["prefix_cache"])])
def test_hits_by_the_engines_own_counters_beyond_what_the_plan_shares_are_contamination(beyond, found) -> None:
    evidence = ordinary_run()
    hits = 0.01 * num_prompt_tokens(evidence) + 2 * len(evidence.records) + beyond
    last = msgspec.structs.replace(evidence.samples[-1], num_prefix_cache_hits=50.0 + hits)
    evidence = with_records(replace(evidence, samples=(evidence.samples[0], last)), num_cached_tokens=None)
    assert codes(evidence) == found


def test_hits_before_the_run_are_not_its_own() -> None:
    evidence = ordinary_run()
    many = [msgspec.structs.replace(one, num_prefix_cache_hits=1e6) for one in evidence.samples]
    assert codes(replace(evidence, samples=many)) == []


def test_what_a_workload_shares_by_plan_is_no_contamination_and_what_it_shares_less_is() -> None:
    for num_shared, found in ((64, []), (32, ["prefix_cache"])):
        evidence = ordinary_run()
        planned_load = load_of(EIGHT_USERS, 48, num_shared_tokens=num_shared)
        shared = with_records(evidence, num_cached_tokens=lambda record: min(64, record.num_prompt_tokens))
        hits = sum(record.num_cached_tokens for record in shared.records)
        last = msgspec.structs.replace(evidence.samples[-1], num_prefix_cache_hits=50.0 + hits)
        shared = replace(shared, planned_load=planned_load, samples=(evidence.samples[0], last))
        assert codes(shared) == found


def test_requests_that_were_put_back_find_their_own_blocks_again() -> None:
    evidence = ordinary_run()
    last = msgspec.structs.replace(evidence.samples[-1], num_prefix_cache_hits=1050.0, num_preemptions=4.0)
    assert codes(replace(evidence, samples=(evidence.samples[0], last))) == []
    unpreempted = msgspec.structs.replace(last, num_preemptions=0.0)
    assert codes(replace(evidence, samples=(evidence.samples[0], unpreempted))) == ["prefix_cache"]


def test_an_engine_that_tells_nothing_of_its_cache_was_not_looked_at() -> None:
    evidence = with_records(ordinary_run(), num_cached_tokens=None)
    silent = [msgspec.structs.replace(one, num_prefix_cache_hits=None) for one in evidence.samples]
    evidence = replace(evidence, samples=silent)
    assert (codes(evidence), unchecked(evidence)) == ([], ["prefix_cache"])
    assert unchecked(replace(evidence, told_settings={"enable_prefix_caching": False})) == []


# ---------------------------------------------------------------- lengths and usage


def test_a_prompt_of_another_length_than_planned_is_found() -> None:
    evidence = with_records(
        ordinary_run(), num_prompt_tokens=lambda record: record.num_prompt_tokens + (record.index == 3)
    )
    assert codes(evidence) == ["prompt_lengths"]
    estimated = msgspec.structs.replace(evidence.planned_load, prompt_counts="estimated")
    assert codes(replace(evidence, planned_load=estimated)) == []


def test_an_output_is_held_to_its_length_only_where_the_end_of_sequence_is_ignored() -> None:
    shorter = with_records(
        ordinary_run(), num_output_tokens=lambda record: record.num_output_tokens - (record.index == 3)
    )
    assert [reason.code for reason in lengths_as_planned(shorter)] == []
    requests = tuple(
        msgspec.structs.replace(planned, sampling=replace(planned.sampling, ignore_eos=True))
        for planned in shorter.planned_load.requests
    )
    planned_load = msgspec.structs.replace(shorter.planned_load, requests=requests)
    assert [reason.code for reason in lengths_as_planned(replace(shorter, planned_load=planned_load))] == [
        "output_lengths"
    ]


def test_a_single_answer_without_usage_is_one_too_many() -> None:
    evidence = with_records(
        ordinary_run(), num_output_tokens=lambda record: None if record.index == 3 else record.num_output_tokens
    )
    assert codes(evidence) == ["usage_missing"]


@pytest.mark.parametrize(("share", "found"), [(0.09, []), (0.12, ["usage_disagrees"])])
def test_counts_of_tokens_may_differ_by_a_tenth_beyond_two_in_each_answer(share, found) -> None:
    evidence = with_records(
        ordinary_run(), num_retokenized_tokens=lambda record: round(record.num_output_tokens * (1 - share)) - 2
    )
    assert codes(evidence) == found
    more = with_records(
        ordinary_run(), num_retokenized_tokens=lambda record: round(record.num_output_tokens * (1 + share)) + 2
    )
    assert codes(more) == found


def test_a_requested_length_that_is_told_as_the_produced_one_is_found() -> None:
    # Half of the answers ended early, and the engine counts what they were asked for.
    evidence = with_records(
        ordinary_run(), num_retokenized_tokens=lambda record: record.max_tokens // (1 + record.index % 2)
    )
    assert codes(evidence) == ["usage_disagrees"]


def test_differences_in_both_directions_do_not_cancel() -> None:
    evidence = with_records(
        ordinary_run(),
        num_retokenized_tokens=lambda record: round(record.num_output_tokens * (1.3 if record.index % 2 else 0.7)),
    )
    assert codes(evidence) == ["usage_disagrees"]


def test_without_a_tokenizer_nobody_counts_a_second_time() -> None:
    evidence = with_records(ordinary_run(), num_retokenized_tokens=None)
    assert (codes(evidence), unchecked(evidence)) == ([], ["usage_disagrees"])


# ---------------------------------------------------------------- enough requests


@pytest.mark.parametrize(("percent", "needed"), [(50, 5), (90, 29), (95, 59), (99, 299), (99.9, 2995)])
def test_a_percentile_takes_so_many_values_that_one_lies_above_it_with_95_percent(percent, needed) -> None:
    assert num_values_needed(percent) == needed
    assert 1 - (percent / 100) ** needed >= 0.95 > 1 - (percent / 100) ** (needed - 1)


@pytest.mark.parametrize(("num_requests", "found"), [(59, []), (58, ["too_few_requests"])])
def test_a_percentile_that_was_asked_for_needs_enough_requests(num_requests, found) -> None:
    assert codes(ordinary_run(num_requests=num_requests, percentiles=(50.0, 95.0))) == found


def test_requests_that_failed_tell_no_percentile() -> None:
    evidence = ordinary_run(num_requests=300, percentiles=(99.0,))
    assert codes(evidence) == []
    failed = with_records(evidence, error_class=lambda record: "EngineDied" if record.index in (1, 2) else None)
    assert codes(failed) == ["too_few_requests"]


# ---------------------------------------------------------------- one engine, alone, as asked


@pytest.mark.parametrize(
    "counter", ["num_prompt_tokens", "num_output_tokens", "num_preemptions", "num_prefix_cache_queries", "num_steps"]
)
def test_a_counter_that_goes_down_tells_of_a_restart(counter) -> None:
    evidence = ordinary_run()
    readings = [sample(at, **{counter: value}) for at, value in ((0.0, 500.0), (0.5, 500.0), (1.0, 700.0))]
    assert "engine_restarted" not in codes(replace(evidence, samples=readings))
    readings = [sample(at, **{counter: value}) for at, value in ((0.0, 500.0), (0.5, 3.0), (1.0, 700.0))]
    assert "engine_restarted" in codes(replace(evidence, samples=readings))


@pytest.mark.parametrize(("shift_s", "found"), [(0.9, []), (1.1, ["engine_restarted"])])
def test_another_instant_of_the_start_tells_of_a_restart(shift_s, found) -> None:
    evidence = ordinary_run()
    last = msgspec.structs.replace(evidence.samples[-1], engine_started_at=1_790_000_000.0 + shift_s)
    assert codes(replace(evidence, samples=(evidence.samples[0], last))) == found


def test_samples_that_failed_tell_nothing() -> None:
    evidence = ordinary_run()
    broken = sample(0.5, num_output_tokens=None, engine_started_at=None, error="BackendTimeout: too slow")
    assert codes(replace(evidence, samples=(evidence.samples[0], broken, evidence.samples[1]))) == []


def test_an_engine_without_counters_was_not_looked_at() -> None:
    evidence = replace(ordinary_run(), samples=())
    assert codes(evidence) == []
    assert unchecked(evidence) == ["engine_restarted", "other_traffic"]


@pytest.mark.parametrize(("surplus", "found"), [(1.09, []), (1.12, ["other_traffic"])])
def test_tokens_that_nobody_here_asked_for_tell_of_other_traffic(surplus, found) -> None:
    evidence = ordinary_run()
    made = evidence.metrics.num_output_tokens * surplus
    samples = (sample(0.0), sample(1.0, num_output_tokens=100.0 + made))
    assert codes(replace(evidence, samples=samples)) == found


def test_what_failed_requests_may_have_cost_is_no_other_traffic() -> None:
    evidence = ordinary_run(num_requests=100)
    failed = with_records(
        evidence, error_class=lambda record: "BackendTimeout" if record.index == 1 else None, num_discarded_tokens=3
    )
    assert codes(failed) == []


def test_settings_other_than_asked_are_named() -> None:
    evidence = ordinary_run(configured_settings={"max_num_seqs": 8}, told_settings={"max_num_seqs": 8})
    assert codes(evidence) == []
    evidence = replace(evidence, told_settings={"max_num_seqs": 4})
    assert codes(evidence) == ["settings_differ"]
    assert codes(replace(evidence, approximated_settings=frozenset({"max_num_seqs"}))) == []


def test_the_figures_that_the_checks_are_given_are_those_of_the_records() -> None:
    evidence = ordinary_run()
    assert evidence.metrics == run_metrics(evidence.records, ServiceLevels())
