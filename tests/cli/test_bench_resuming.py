"""What `bench --resume` goes on with, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from enginebay.cli.bench.resuming import kept_starts
from enginebay.errors import NotComparable
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.measurement import BenchSettings, Subject
from enginebay.loadtest.metrics import ServiceLevels, run_metrics
from enginebay.loadtest.plan import Load, Plan, PlannedLoad, PlannedRequest
from enginebay.loadtest.records import Arrival, Record, RecordLine, write_records
from enginebay.loadtest.result import Conduct, Failure, MeasuredSubject, Result, Run, Status, save_result
from enginebay.loadtest.sent.sent import FILE_NAME as SENT
from enginebay.loadtest.timeseries import write_samples
from enginebay.types import SamplingParams

HERE = Environment(
    python="CPython 3.11", operating_system="Linux", cpu="Example", num_cores=2, memory_bytes=1, packages={"torch": "2"}
)
PLAN = Plan(
    model="m",
    workload="w",
    seed=0,
    loads=tuple(
        PlannedLoad(
            load=Load(users=users),
            requests=(PlannedRequest(index=0, text="a", num_prompt_tokens=1, sampling=SamplingParams(max_tokens=1)),),
        )
        for users in (1, 2)
    ),
)
SETTINGS = BenchSettings(num_starts=3)


URL = "http://127.0.0.1:8000"


def subject(label: str, **changes) -> Subject:
    values = {"kind": "openai_http", "image": "engine:1", "configured_settings": {"max_num_seqs": 8}, "url": URL}
    values |= {"is_restarted": False, **changes}
    return Subject(label=label, open=lambda: pytest.fail("nothing is started"), **values)


SUBJECTS = [subject("one"), subject("two")]


def run(label: str, users: int, start: int, **changes) -> tuple[Run, Record]:
    record = Record(
        index=0, scheduled_at=0.0, sent_at=0.0, ended_at=1.0, arrivals=[Arrival(1.0, 1)],
        num_planned_prompt_tokens=1, max_tokens=1, num_prompt_tokens=1, num_output_tokens=1,
    )  # fmt: skip
    values: dict = {
        "backend": "openai_http", "label": label, "load": Load(users=users), "start_index": start, "repeat": 0,
        "status": "complete", "transport": "http", "simulated": False, "model": "m", "engine_version": None,
        "configured_settings": {"max_num_seqs": 8}, "effective_settings": {}, "valid": True, "invalid_reasons": [],
        "client_cpu_ratio": 0.0, "metrics": run_metrics([record], ServiceLevels()),
    }  # fmt: skip
    return Run(**{**values, **changes}), record


def save(
    folder: Path,
    *,
    conduct: Conduct | None = SETTINGS.conduct,
    failures: Sequence[Failure] = (),
    last: Status = "partial",
) -> None:
    """A first start of both that is whole, and a second one of `two` that was cut short after its first load."""
    runs = [
        run("one", 1, 0), run("one", 2, 0), run("two", 1, 0), run("two", 2, 0),
        run("two", 1, 1), run("two", 2, 1, status=last, valid=last == "complete"),
    ]  # fmt: skip
    result = Result(
        status="partial", created_at="2026-11-22T08:00:00+00:00", plan_sha256=PLAN.sha256, model="m", workload="w",
        seed=0, slo=ServiceLevels(), conduct=conduct, failures=failures, environment=HERE,
        runs=tuple(item for item, _ in runs),
        subjects=[
            MeasuredSubject(label=label, backend="openai_http", image="engine:1", url=URL, is_restarted=False)
            for label in ("one", "two")
        ],
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    save_result(result, folder / "result.json")
    write_records(folder / "records.jsonl", [RecordLine(run=item.key, record=record) for item, record in runs])
    write_samples(folder / "timeseries.jsonl", [])
    (folder / SENT).write_bytes(b"")


def kept(folder: Path, **changes):
    values = {"settings": SETTINGS, "environment": HERE, **changes}
    subjects = values.pop("subjects", SUBJECTS)
    return kept_starts(folder, values.pop("plan", PLAN), subjects, **values)


def test_whole_starts_are_kept_and_one_that_was_cut_short_is_measured_again(tmp_path) -> None:
    save(tmp_path)
    found = kept(tmp_path)
    assert found.starts == {(0, "one"), (0, "two")}
    assert {line.run.start_index for line in found.lines} == {0}
    assert len(found.lines) == 4


def test_more_starts_than_before_may_be_asked_for(tmp_path) -> None:
    save(tmp_path)
    assert kept(tmp_path, settings=BenchSettings(num_starts=9)).starts == {(0, "one"), (0, "two")}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"settings": BenchSettings(slo=ServiceLevels(ttft_s=1.0))}, "service levels"),
        ({"settings": BenchSettings(request_timeout_s=9.0)}, "request_timeout_s was None, now 9.0"),
        ({"settings": BenchSettings(percentiles=(50.0, 99.0))}, "percentiles was (), now (50.0, 99.0)"),
        ({"settings": BenchSettings(num_client_processes=4)}, "client_processes was None, now 4"),
        ({"settings": BenchSettings(sample_interval_s=0.1)}, "sample_interval_s was 0.5, now 0.1"),
        ({"settings": BenchSettings(num_logprob_prompts=3)}, "logprob_prompts was 0, now 3"),
        (
            {"subjects": [subject("one", url="http://127.0.0.1:9000"), SUBJECTS[1]]},
            "url of one was http://127.0.0.1:8000, now http://127.0.0.1:9000",
        ),
        ({"subjects": [subject("one", url=None, is_restarted=True), SUBJECTS[1]]}, "one was a server of others, now"),
        ({"environment": msgspec.structs.replace(HERE, cpu="Other")}, "cpu was Example, now Other"),
        ({"environment": msgspec.structs.replace(HERE, packages={"torch": "3"})}, "torch was 2, now 3"),
        (
            {"subjects": [subject("one", configured_settings={"max_num_seqs": 9}), SUBJECTS[1]]},
            "max_num_seqs of one was 8, now 9",
        ),
        ({"subjects": [subject("one", kind="vllm"), SUBJECTS[1]]}, "kind of one was openai_http, now vllm"),
        ({"subjects": [subject("one", image="engine:2"), SUBJECTS[1]]}, "image of one was engine:1, now engine:2"),
        ({"subjects": [subject("one", model="other"), SUBJECTS[1]]}, "model of one was None, now other"),
        ({"subjects": [subject("one", transport="in_process"), SUBJECTS[1]]}, "one was reached over http, now over"),
        ({"subjects": [SUBJECTS[0]]}, "two is not among the backends"),
        ({"subjects": [*SUBJECTS, subject("three")]}, "three was not measured in turns with the others"),
        ({"plan": msgspec.structs.replace(PLAN, seed=1)}, "was measured with plan"),
    ],
)  # fmt: skip
def test_whatever_is_different_is_refused_by_its_name(tmp_path, changes, told) -> None:
    save(tmp_path)
    with pytest.raises(NotComparable) as refused:
        kept(tmp_path, **changes)
    assert told in str(refused.value)


def test_fewer_starts_than_were_measured_are_refused(tmp_path) -> None:
    save(tmp_path, last="complete")
    assert len(kept(tmp_path, settings=BenchSettings(num_starts=2)).starts) == 3
    with pytest.raises(NotComparable, match="2 starts were measured, and 1 are asked for now"):
        kept(tmp_path, settings=BenchSettings(num_starts=1))


def test_a_result_that_does_not_tell_how_it_was_measured_cannot_be_gone_on_with(tmp_path) -> None:
    save(tmp_path, conduct=None)
    with pytest.raises(NotComparable, match="nothing tells its time-out of requests"):
        kept(tmp_path)


def test_what_failed_before_is_not_forgotten(tmp_path) -> None:
    failure = Failure(label="two", load=None, error_class="StartFailed", message="no memory", start_index=1)
    save(tmp_path, failures=[failure])
    assert kept(tmp_path).failures == [failure]
