"""Which answers of a result are set against which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from drawn_results import ENVIRONMENT, metrics, run

from enginebay.errors import LoadTestError
from enginebay.loadtest.answers import Answer, AnswerLine, write_answers
from enginebay.loadtest.metrics import ServiceLevels
from enginebay.loadtest.plan import Load, Plan, PlannedLoad, PlannedRequest, save_plan
from enginebay.loadtest.records import Record, RecordLine, write_records
from enginebay.loadtest.result import Result, save_result
from enginebay.types import SamplingParams
from enginebay.verdict.outputs.of_result import output_agreements, output_agreements_between, said_in

TWO_USERS = Load(users=2)
Words = Mapping[tuple[str, int], Sequence[Sequence[int]]]
"""By label and start: the token ids of each answer."""


def plan(*, temperature: float = 0.0, num_requests: int = 2) -> Plan:
    sampling = SamplingParams(max_tokens=3, temperature=temperature)
    requests = tuple(
        PlannedRequest(index=index, text=f"{index} words", num_prompt_tokens=2, sampling=sampling)
        for index in range(num_requests)
    )
    return Plan(model="m", workload="words", seed=0, loads=(PlannedLoad(load=TWO_USERS, requests=requests),))


def record(index: int, token_ids: Sequence[int]) -> Record:
    return Record(
        index=index,
        scheduled_at=0.0,
        sent_at=0.0,
        ended_at=1.0,
        num_planned_prompt_tokens=2,
        max_tokens=3,
        num_output_tokens=len(token_ids),
        text=" ".join(map(str, token_ids)),
        token_ids=list(token_ids),
    )


def saved(
    folder: Path,
    words: Words,
    *,
    kinds: Mapping[str, str] | None = None,
    simulated: Sequence[str] = (),
    of_plan: Plan | None = None,
) -> Path:
    of_plan = of_plan or plan()
    runs = [
        run(label, start, metrics(1.0), load=TWO_USERS, backend=(kinds or {}).get(label, label),
            simulated=label in simulated)
        for label, start in words
    ]  # fmt: skip
    result = Result(
        status="complete", created_at="2026-01-01T00:00:00+00:00", plan_sha256=of_plan.sha256, model="m",
        workload="words", seed=0, slo=ServiceLevels(), environment=ENVIRONMENT, runs=runs,
    )  # fmt: skip
    lines = [
        RecordLine(run=each.key, record=record(index, token_ids))
        for each in runs
        for index, token_ids in enumerate(words[each.label, each.start_index])
    ]
    save_plan(of_plan, folder / "plan.json")
    save_result(result, folder / "result.json")
    write_records(folder / "records.jsonl", lines)
    return folder


def test_each_engine_is_set_against_the_reference_engine_wherever_it_stands(tmp_path: Path) -> None:
    words = {("vllm", 0): [[1, 2, 3], [4, 5, 6]], ("ours", 0): [[1, 2, 9], [4, 5, 6]], ("tgi", 0): [[1, 2, 3], [4]]}
    found = output_agreements(said_in(saved(tmp_path, words, kinds={"ours": "reference"})))
    assert [(each.first, each.second, each.num_prompts_that_part) for each in found] == [
        ("ours", "vllm", 1),
        ("ours", "tgi", 2),
    ]
    assert found[0].where == "2 users"


def test_without_the_reference_engine_the_first_one_is_the_measure(tmp_path: Path) -> None:
    found = output_agreements(said_in(saved(tmp_path, {("a", 0): [[1]], ("b", 0): [[1]], ("c", 0): [[1]]})))
    assert [(each.first, each.second) for each in found] == [("a", "b"), ("a", "c")]


def test_what_was_drawn_by_chance_is_not_compared_and_it_is_said(tmp_path: Path) -> None:
    words = {("a", 0): [[1]], ("b", 0): [[2]]}
    (found,) = output_agreements(said_in(saved(tmp_path, words, of_plan=plan(temperature=0.7))))
    assert "temperature 0.7" in found.not_compared
    assert (found.num_prompts, found.is_beyond_bound) == (0, False)


def test_the_words_of_a_simulator_are_not_compared(tmp_path: Path) -> None:
    (found,) = output_agreements(said_in(saved(tmp_path, {("a", 0): [[1]], ("b", 0): [[2]]}, simulated=["b"])))
    assert "simulated" in found.not_compared


def test_an_engine_that_differs_from_itself_is_granted_as_much_towards_others(tmp_path: Path) -> None:
    num_prompts = 60
    of_plan = plan(num_requests=num_prompts)
    same, other = [[1, 2, 3]] * num_prompts, [[1, 2, 4]] * num_prompts
    steady = saved(tmp_path / "steady", {("a", 0): same, ("a", 1): same, ("b", 0): other}, of_plan=of_plan)
    unsteady = saved(tmp_path / "unsteady", {("a", 0): same, ("a", 1): other, ("b", 0): other}, of_plan=of_plan)
    assert output_agreements(said_in(steady))[0].is_beyond_bound
    assert not output_agreements(said_in(unsteady))[0].is_beyond_bound


def test_an_engine_that_says_something_else_each_time_is_not_excused_by_that(tmp_path: Path) -> None:
    num_prompts = 60
    same, other, third = ([[1, 2, last]] * num_prompts for last in (3, 4, 5))
    words = {("a", 0): same, ("a", 1): same, ("b", 0): other, ("b", 1): third}
    folder = saved(tmp_path, words, of_plan=plan(num_requests=num_prompts))
    assert output_agreements(said_in(folder))[0].is_beyond_bound


def test_two_results_of_one_plan_are_compared_and_those_of_two_plans_are_not(tmp_path: Path) -> None:
    one = said_in(saved(tmp_path / "old", {("vllm", 0): [[1, 2], [3, 4]]}))
    other = said_in(saved(tmp_path / "new", {("vllm", 0): [[1, 2], [3, 5]]}))
    (found,) = output_agreements_between((one, "vllm"), (other, "vllm"), names=("old", "new"))
    assert (found.first, found.second, found.num_prompts_that_part) == ("old", "new", 1)
    third = said_in(saved(tmp_path / "third", {("vllm", 0): [[1]]}, of_plan=plan(num_requests=1)))
    with pytest.raises(LoadTestError, match="different plans"):
        output_agreements_between((one, "vllm"), (third, "vllm"))


def test_answers_that_were_asked_apart_come_with_their_own_agreement(tmp_path: Path) -> None:
    folder = saved(tmp_path, {("a", 0): [[1]], ("b", 0): [[1]]})
    write_answers(
        folder / "answers.jsonl",
        [AnswerLine(label=label, answer=Answer(index=0, text="1", num_tokens=1, token_ids=(1,))) for label in "ab"],
    )
    under_load, alone = output_agreements(said_in(folder))
    assert under_load.where == "2 users"
    assert "apart from the load" in alone.where
    assert alone.num_prompts == 1


def test_a_plan_that_is_not_the_results_own_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, {("a", 0): [[1]], ("b", 0): [[1]]})
    save_plan(plan(num_requests=5), folder / "plan.json")
    with pytest.raises(LoadTestError, match="is not the plan"):
        said_in(folder)
