import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from loadtest_fakes import ENVIRONMENT, Answer, ScriptedBackend, SilentWatcher, VirtualClock, small_plan, started

from enginebay.errors import NotComparable, StartFailed
from enginebay.loadtest.kept import Kept, read_kept
from enginebay.loadtest.measurement import BenchSettings, Subject
from enginebay.loadtest.plan import Load, Plan, PlannedLoad
from enginebay.loadtest.result import Result, load_result
from enginebay.loadtest.schedule import ASSUMED_START_S, Estimator, Speed, TimeEstimate, rounds
from enginebay.loadtest.session import Bench
from enginebay.types import BackendInfo


def subject(label: str, backend: ScriptedBackend, *, start_s: float = 0.0, opened: list[str] | None = None) -> Subject:
    @asynccontextmanager
    async def open_it():
        if opened is not None:
            opened.append(label)
        guarded = await started(backend)
        try:
            await backend.clock.sleep_until(backend.clock.now() + start_s)
            yield guarded
        finally:
            await guarded.aclose()

    return Subject(label=label, kind="scripted", open=open_it)


def bench(subjects: Sequence[Subject], out: Path, clock: VirtualClock, *, num_starts: int, **changes) -> Bench:
    values = {"plan": small_plan(4), "watcher": SilentWatcher(), "kept": None}
    values |= changes
    return Bench(
        values.pop("plan"),
        subjects,
        out=out,
        clock=clock,
        environment=ENVIRONMENT,
        settings=BenchSettings(num_starts=num_starts),
        **values,
    )


def test_starts_go_to_and_fro() -> None:
    assert "".join(label for _, label in rounds("AB", 4)) == "ABBAABBA"
    assert [*rounds("ABC", 2)] == [(0, "A"), (0, "B"), (0, "C"), (1, "C"), (1, "B"), (1, "A")]


def test_backends_are_started_in_turns_and_each_run_knows_its_place(tmp_path) -> None:
    clock, opened = VirtualClock(), []
    subjects = [subject(label, ScriptedBackend(clock), opened=opened, start_s=2.0) for label in "ab"]
    result = asyncio.run(bench(subjects, tmp_path, clock, num_starts=3).run())
    assert opened == ["a", "b", "b", "a", "a", "b"]
    assert [(run.label, run.start_index, run.order) for run in result.runs] == [
        ("a", 0, 0), ("b", 0, 1), ("b", 1, 2), ("a", 1, 3), ("a", 2, 4), ("b", 2, 5),
    ]  # fmt: skip
    assert [run.start_duration_s for run in result.runs] == pytest.approx([2.0] * 6)
    assert [one.label for one in result.subjects] == ["a", "b"]
    assert result.num_starts == 3


class FailingSecond(ScriptedBackend):
    """Its second start fails."""

    num_starts = 0

    async def start(self) -> None:
        FailingSecond.num_starts += 1
        if FailingSecond.num_starts == 2:
            raise StartFailed("no memory", backend="b")


def test_a_start_that_fails_is_kept_and_the_backend_gets_its_further_starts(tmp_path) -> None:
    clock, opened = VirtualClock(), []
    FailingSecond.num_starts = 0
    subjects = [
        subject("a", ScriptedBackend(clock), opened=opened),
        subject("b", FailingSecond(clock), opened=opened),
    ]
    with pytest.raises(StartFailed, match="no memory"):
        asyncio.run(bench(subjects, tmp_path, clock, num_starts=3).run())
    result = load_result(tmp_path)
    assert opened == ["a", "b", "b", "a", "a", "b"]
    assert [run.start_index for run in result.runs if run.label == "b"] == [0, 2]
    [failure] = result.failures
    assert (failure.label, failure.start_index, failure.error_class) == ("b", 1, "StartFailed")


def test_a_failure_stays_known_when_its_start_is_measured_again(tmp_path) -> None:
    clock = VirtualClock()
    FailingSecond.num_starts = 0
    subjects = [subject("a", ScriptedBackend(clock)), subject("b", FailingSecond(clock))]
    with pytest.raises(StartFailed, match="no memory"):
        asyncio.run(bench(subjects, tmp_path, clock, num_starts=2).run())
    again = bench(subjects, tmp_path, clock, num_starts=2, kept=read_kept(tmp_path, small_plan(4)))
    result = asyncio.run(again.run())
    assert result.status == "complete"
    assert {(run.label, run.start_index) for run in result.runs} == {("a", 0), ("b", 0), ("a", 1), ("b", 1)}
    [failure] = result.failures
    assert (failure.label, failure.start_index, failure.message, failure.is_made_good) == ("b", 1, "no memory", True)
    assert load_result(tmp_path).failures == [failure]


def test_a_start_with_another_version_of_the_engine_is_refused(tmp_path) -> None:
    clock = VirtualClock()
    versions = iter(["0.11", "0.11", "0.12"])

    class Upgraded(ScriptedBackend):
        version = ""

        async def start(self) -> None:
            self.version = next(versions)

        @property
        def info(self) -> BackendInfo:
            return replace(super().info, engine_version=self.version or None)

    measurement = bench([subject("a", Upgraded(clock))], tmp_path, clock, num_starts=3)
    with pytest.raises(NotComparable, match=r"a is version 0\.12 .* and was version 0\.11"):
        asyncio.run(measurement.run())
    assert [run.start_index for run in load_result(tmp_path).runs] == [0, 1]


# ---------------------------------------------------------------- how long it takes


def test_the_time_is_told_before_the_first_start_and_after_each(tmp_path) -> None:
    clock = VirtualClock()
    told: list[TimeEstimate] = []
    # Two users, four requests of two tokens: 0.22 s beside the start.
    subjects = [
        subject("a", ScriptedBackend(clock), start_s=1.0),
        subject("b", ScriptedBackend(clock, answer=lambda request: Answer()), start_s=3.0),
    ]
    measurement = bench(subjects, tmp_path, clock, num_starts=2, on_estimate=told.append)
    assert measurement.estimate.remaining_s > 4 * ASSUMED_START_S
    began_at = clock.now()
    asyncio.run(measurement.run())
    assert [estimate.is_measured for estimate in told] == [False, False, True, True, True]
    # Once both were measured, what is left of the others is known to the sample after each run.
    assert told[2].remaining_s == pytest.approx(4.44)
    assert told[3].remaining_s == pytest.approx(1.22)
    assert told[4].remaining_s == 0.0
    assert clock.now() - began_at == pytest.approx(2 * told[2].remaining_s)


def test_a_backend_that_nobody_measured_is_taken_to_be_like_the_others() -> None:
    estimator = Estimator(small_plan().loads)
    estimator.measured("a", 100.0)
    assert estimator.estimate({"a": 1, "b": 2}) == TimeEstimate(remaining_s=300.0, is_measured=False)
    estimator.measured("b", 40.0)
    assert estimator.estimate({"a": 1, "b": 2}) == TimeEstimate(remaining_s=180.0, is_measured=True)


def test_what_nobody_measured_is_assumed_from_the_plan() -> None:
    closed, twice_as_many = (small_plan(loads=[Load(users=users)]).loads for users in (1, 2))
    one, two = (Estimator(loads).estimate({"a": 1}).remaining_s - ASSUMED_START_S for loads in (closed, twice_as_many))
    assert one == pytest.approx(2 * two)
    [planned_load] = small_plan(loads=[Load(rate=1.0, arrivals="constant")]).loads
    late = [
        *planned_load.requests[:-1],
        type(planned_load.requests[-1])(
            index=3, text="x", num_prompt_tokens=1, offset_s=600.0, sampling=planned_load.requests[0].sampling
        ),
    ]
    opened = PlannedLoad(load=planned_load.load, requests=tuple(late))
    assert Estimator([opened]).estimate({"a": 1}).remaining_s == pytest.approx(ASSUMED_START_S + 600.0, abs=1.0)


def test_of_a_backend_that_was_asked_something_the_time_follows_from_its_answers() -> None:
    """Four requests of two tokens and a prompt of three, by two users: 9.2 tokens in all."""
    loads = small_plan(4).loads
    speed = Speed(start_s=0.0, alone_tokens_per_s=2.0, together=(3, 4.0))
    estimator = Estimator(loads, {"a": speed})
    assert [speed.tokens_per_s(users) for users in (1, 2, 3, 9)] == [2.0, 3.0, 4.0, 4.0]
    assert estimator.estimate({"a": 1}).remaining_s == pytest.approx(9.2 / 3.0)
    estimator.measured("b", 100.0)
    assert estimator.estimate({"a": 1}).remaining_s == pytest.approx(9.2 / 3.0), "its own, not that of the other"
    estimator.measured("a", 5.0)
    assert estimator.estimate({"a": 1}).remaining_s == 5.0


def test_no_time_is_counted_for_the_start_of_a_server_that_others_run(tmp_path) -> None:
    clock = VirtualClock()
    one = subject("a", ScriptedBackend(clock))
    ours, theirs = (
        bench([replace(one, is_restarted=is_restarted)], tmp_path, clock, num_starts=2).estimate.remaining_s
        for is_restarted in (True, False)
    )
    assert ours - theirs == pytest.approx(2 * ASSUMED_START_S)


# ---------------------------------------------------------------- going on


def interrupted_result(tmp_path: Path) -> Result:
    """Two starts of each were asked for; a's first is whole, b's first was cut short under its second load."""
    clock = VirtualClock()
    watcher = SilentWatcher()

    async def main() -> None:
        subjects = [subject(label, ScriptedBackend(clock)) for label in "ab"]
        plan = small_plan(4, loads=[Load(users=1), Load(users=2)])
        task = asyncio.create_task(bench(subjects, tmp_path, clock, num_starts=2, plan=plan, watcher=watcher).run())
        watcher.on_record = lambda record: len(watcher.records) == 14 and task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    return load_result(tmp_path)


def test_whole_starts_are_kept_and_the_others_measured_again(tmp_path) -> None:
    before = interrupted_result(tmp_path)
    assert [(run.label, run.status) for run in before.runs] == [
        ("a", "complete"), ("a", "complete"), ("b", "complete"), ("b", "partial"),
    ]  # fmt: skip
    plan = small_plan(4, loads=[Load(users=1), Load(users=2)])
    kept = read_kept(tmp_path, plan)
    assert kept.starts == {(0, "a")}
    assert len(kept.lines) == 8
    clock, opened = VirtualClock(), []
    subjects = [subject(label, ScriptedBackend(clock), opened=opened) for label in "ab"]
    result = asyncio.run(bench(subjects, tmp_path, clock, num_starts=2, plan=plan, kept=kept).run())
    assert opened == ["b", "b", "a"]
    assert sorted((run.label, run.start_index) for run in result.runs) == [
        ("a", 0), ("a", 0), ("a", 1), ("a", 1), ("b", 0), ("b", 0), ("b", 1), ("b", 1),
    ]  # fmt: skip
    assert {run.status for run in result.runs} == {"complete"}
    assert result.status == "complete"
    assert len({run.order for run in result.runs}) == 4


def test_another_plan_cannot_be_gone_on_with(tmp_path) -> None:
    interrupted_result(tmp_path)
    with pytest.raises(NotComparable, match="go on with the same config"):
        read_kept(tmp_path, small_plan(5))


def test_nothing_is_measured_again_where_all_is_there(tmp_path) -> None:
    clock, opened = VirtualClock(), []
    subjects = [subject("a", ScriptedBackend(clock), opened=opened)]
    asyncio.run(bench(subjects, tmp_path, clock, num_starts=1).run())
    again = bench(subjects, tmp_path, clock, num_starts=1, kept=read_kept(tmp_path, small_plan(4)))
    assert again.estimate == TimeEstimate(remaining_s=0.0, is_measured=True)
    assert asyncio.run(again.run()).status == "complete"
    assert opened == ["a"]
    assert Kept().starts == frozenset()


def with_own_prompts(num_starts: int) -> Plan:
    """As of a server that runs on: every start has loads of its own."""
    plan = small_plan(4)
    loads = [msgspec.structs.replace(load, start_index=start) for start in range(num_starts) for load in plan.loads]
    return msgspec.structs.replace(plan, loads=tuple(loads))


@pytest.mark.parametrize("before", [with_own_prompts(1), with_own_prompts(2), small_plan(4)])
def test_a_plan_with_further_starts_goes_on_and_the_result_belongs_to_it_at_once(tmp_path, before: Plan) -> None:
    clock, longer = VirtualClock(), with_own_prompts(3)
    num_before = len(before.loads)
    subjects = [subject("a", ScriptedBackend(clock))]
    asyncio.run(bench(subjects, tmp_path, clock, num_starts=num_before, plan=before).run())
    kept = read_kept(tmp_path, longer)
    assert kept.starts == {(start, "a") for start in range(num_before)}

    seen: list[str] = []

    class Looking(ScriptedBackend):
        async def start(self) -> None:
            seen.append(load_result(tmp_path).plan_sha256)
            await super().start()

    subjects = [subject("a", Looking(clock))]
    result = asyncio.run(bench(subjects, tmp_path, clock, num_starts=3, plan=longer, kept=kept).run())
    assert seen == [longer.sha256] * (3 - num_before), "else a process that is killed now would lose all of it"
    assert [run.start_index for run in result.runs] == [0, 1, 2]


def test_a_plan_with_fewer_or_other_starts_does_not_go_on(tmp_path) -> None:
    clock, plan = VirtualClock(), with_own_prompts(2)
    asyncio.run(bench([subject("a", ScriptedBackend(clock))], tmp_path, clock, num_starts=2, plan=plan).run())
    others = [load.requests[::-1] for load in with_own_prompts(3).loads]
    other = tuple(
        msgspec.structs.replace(load, requests=requests)
        for load, requests in zip(with_own_prompts(3).loads, others, strict=True)
    )
    for refused in (with_own_prompts(1), msgspec.structs.replace(plan, loads=other)):
        with pytest.raises(NotComparable, match="no fewer starts"):
            read_kept(tmp_path, refused)
