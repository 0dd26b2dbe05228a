import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from loadtest_fakes import (
    ENVIRONMENT,
    Answer,
    ScriptedBackend,
    SilentWatcher,
    VirtualClock,
    small_plan,
    started,
)

from enginebay.errors import (
    BackendUnavailable,
    ContextTooLong,
    EngineDied,
    ResultExists,
    StartFailed,
    UnsupportedFeature,
)
from enginebay.loadtest.measurement import BenchSettings, Subject
from enginebay.loadtest.plan import Load, Plan, load_plan
from enginebay.loadtest.records import read_records
from enginebay.loadtest.result import Result, load_result
from enginebay.loadtest.session import Bench
from enginebay.loadtest.timeseries import read_samples
from enginebay.loadtest.validity.settings import effective_settings, settings_differ
from enginebay.types import Feature


def subject(label: str, backend: ScriptedBackend, *, approximated: frozenset[str] = frozenset()) -> Subject:
    @asynccontextmanager
    async def opened():
        guarded = await started(backend)
        try:
            yield guarded
        finally:
            await guarded.aclose()

    configured = {"max_num_seqs": 2}
    return Subject(
        label=label, kind="scripted", open=opened, configured_settings=configured, approximated_settings=approximated
    )


def bench(
    plan: Plan, out: Path, *backends: ScriptedBackend, watcher=None, approximated=frozenset(), **settings
) -> Bench:
    return Bench(
        plan,
        [subject("abcdef"[number], backend, approximated=approximated) for number, backend in enumerate(backends)],
        out=out,
        clock=backends[0].clock,
        watcher=watcher or SilentWatcher(),
        environment=ENVIRONMENT,
        settings=BenchSettings(**settings),
    )


def test_every_backend_gets_the_same_requests_under_every_load(tmp_path) -> None:
    clock = VirtualClock()
    one, two = ScriptedBackend(clock), ScriptedBackend(clock, answer=lambda request: Answer(gap_s=0.1))
    plan = small_plan(4, loads=[Load(users=1), Load(users=2)], num_warmup=1)
    result = asyncio.run(bench(plan, tmp_path, one, two).run())
    assert [request.prompt for _, request in one.seen] == [request.prompt for _, request in two.seen]
    assert [request.sampling for _, request in one.seen] == [request.sampling for _, request in two.seen]
    assert [(run.label, run.load.users) for run in result.runs] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert one.is_closed
    assert two.is_closed


def test_a_result_is_replaced_only_by_who_says_so(tmp_path) -> None:
    clock = VirtualClock()
    asyncio.run(bench(small_plan(4), tmp_path, ScriptedBackend(clock)).run())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = ScriptedBackend(clock)
    with pytest.raises(ResultExists, match="would be lost"):
        asyncio.run(bench(small_plan(5), tmp_path, other).run())
    assert other.seen == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_backend_is_closed_before_the_next_one_starts(tmp_path) -> None:
    clock = VirtualClock()
    one = ScriptedBackend(clock)

    class SecondBackend(ScriptedBackend):
        async def start(self) -> None:
            assert one.is_closed

    result = asyncio.run(bench(small_plan(), tmp_path, one, SecondBackend(clock)).run())
    assert len(result.runs) == 2


def test_the_result_is_saved_with_everything_that_the_schema_names(tmp_path) -> None:
    plan = small_plan(4)
    asyncio.run(bench(plan, tmp_path, ScriptedBackend(VirtualClock())).run())
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["schema_version"] == 2
    assert saved["status"] == "complete"
    assert saved["plan_sha256"] == plan.sha256 == load_plan(tmp_path / "plan.json").sha256
    [run] = saved["runs"]
    assert run["load"] == {"users": 2}
    keys = "backend label load start_index repeat status transport simulated effective_settings valid invalid_reasons"
    assert set(keys.split()) <= set(run)
    assert (run["transport"], run["valid"], run["invalid_reasons"]) == ("http", True, [])
    metrics = run["metrics"]
    counts = "duration_s num_requests num_errors requests_per_s output_tokens_per_s goodput_rps padding_ratio"
    assert set(counts.split()) <= set(metrics)
    for latency in ("ttft_s", "ttft_scheduled_s", "tpot_s", "itl_s", "chunk_gap_s", "e2e_s"):
        assert {"mean", "p50", "p90", "p95", "p99"} <= set(metrics[latency])


def test_figures_on_the_virtual_clock_are_the_closed_form_ones(tmp_path) -> None:
    # Two users, four requests of two tokens: two rounds of 0.1 + 0.01 s.
    backend = ScriptedBackend(VirtualClock())
    [run] = asyncio.run(bench(small_plan(4), tmp_path, backend).run()).runs
    assert run.metrics.duration_s == pytest.approx(0.22)
    assert run.metrics.requests_per_s == pytest.approx(4 / 0.22)
    assert run.metrics.output_tokens_per_s == pytest.approx(8 / 0.22)
    assert run.metrics.ttft_s is not None
    assert run.metrics.ttft_s.p50 == run.metrics.ttft_s.p99 == pytest.approx(0.1)
    assert run.metrics.tpot_s is not None
    assert run.metrics.tpot_s.mean == pytest.approx(0.01)


@pytest.mark.parametrize(("load", "num_connections"), [(Load(users=2), 2), (Load(rate=5, arrivals="constant"), 4)])
def test_connections_are_open_before_the_first_request_of_a_run(tmp_path, load, num_connections) -> None:
    class Connecting(ScriptedBackend):
        async def open_connections(self, num_connections: int) -> None:
            opened.append((num_connections, len(self.seen)))
            await self.clock.sleep_until(self.clock.now() + 5)

    opened: list[tuple[int, int]] = []
    backend = Connecting(VirtualClock())
    [run] = asyncio.run(bench(small_plan(4, loads=[load], num_warmup=1), tmp_path, backend).run()).runs
    assert opened == [(num_connections, 1)], "once, after the warm-up"
    assert run.metrics.duration_s < 5
    assert run.metrics.ttft_scheduled_s.p99 == pytest.approx(0.1)


def test_a_server_that_takes_no_connections_in_advance_is_measured_all_the_same(tmp_path) -> None:
    class Refusing(ScriptedBackend):
        async def open_connections(self, num_connections: int) -> None:
            raise BackendUnavailable("refused")

    [run] = asyncio.run(bench(small_plan(4), tmp_path, Refusing(VirtualClock())).run()).runs
    assert run.valid


def test_a_backend_that_does_not_start_is_no_reason_not_to_measure_the_others(tmp_path) -> None:
    clock = VirtualClock()

    class Failing(ScriptedBackend):
        num_starts = 0

        async def start(self) -> None:
            Failing.num_starts += 1
            raise StartFailed("no memory", backend="a")

    other = ScriptedBackend(clock)
    with pytest.raises(StartFailed, match="no memory"):
        asyncio.run(bench(small_plan(), tmp_path, Failing(clock), other, num_starts=2).run())
    result = load_result(tmp_path)
    assert (result.status, [(run.label, run.status) for run in result.runs]) == ("partial", [("b", "complete")] * 2)
    assert [failure.label for failure in result.failures] == ["a"]
    assert Failing.num_starts == 1, "one that failed is not tried again"


def test_the_warm_up_is_sent_first_and_not_measured(tmp_path) -> None:
    backend = ScriptedBackend(VirtualClock())
    [run] = asyncio.run(bench(small_plan(4, num_warmup=2), tmp_path, backend).run()).runs
    sent = [request.prompt.text for _, request in backend.seen]
    assert sent[:2] == ["1000 words here", "1001 words here"]
    assert run.metrics.num_requests == 4
    assert [line.record.index for line in read_records(tmp_path / "records.jsonl")] == [0, 1, 2, 3]


def test_errors_in_mid_run_are_counted_and_make_the_run_invalid(tmp_path) -> None:
    def answer(request) -> Answer:
        return Answer(error=EngineDied("gone") if request.request_id.endswith("-2") else None)

    [run] = asyncio.run(bench(small_plan(4), tmp_path, ScriptedBackend(VirtualClock(), answer=answer)).run()).runs
    assert (run.metrics.num_requests, run.metrics.num_errors) == (4, 1)
    assert not run.valid
    assert [reason.code for reason in run.invalid_reasons] == ["errors"]
    assert run.invalid_reasons[0].detail == "1 of 4 requests failed; the bound is 1%"


def test_a_complete_run_as_planned_is_valid(tmp_path) -> None:
    [run] = asyncio.run(bench(small_plan(4), tmp_path, ScriptedBackend(VirtualClock())).run()).runs
    assert run.valid
    assert run.status == "complete"


def test_an_engine_that_runs_with_other_settings_than_configured_makes_the_run_invalid(tmp_path) -> None:
    backend = ScriptedBackend(VirtualClock(), effective_settings={"max_num_seqs": 1, "policy": "naive"})
    [run] = asyncio.run(bench(small_plan(4), tmp_path, backend).run()).runs
    assert run.effective_settings == {"max_num_seqs": 1, "policy": "naive"}
    [reason] = run.invalid_reasons
    assert (run.valid, reason.code) == (False, "settings_differ")
    assert reason.detail == "the engine runs with other settings: max_num_seqs is 1, not 2"


def test_a_setting_that_the_plan_approximates_is_no_difference(tmp_path) -> None:
    backend = ScriptedBackend(VirtualClock(), effective_settings={"max_num_seqs": 1})
    [run] = asyncio.run(bench(small_plan(4), tmp_path, backend, approximated=frozenset({"max_num_seqs"})).run()).runs
    assert (run.valid, run.effective_settings) == (True, {"max_num_seqs": 1})


def test_a_setting_that_the_engine_does_not_tell_is_unknown_and_no_difference(tmp_path) -> None:
    backend = ScriptedBackend(VirtualClock(), effective_settings={"policy": "naive"})
    [run] = asyncio.run(bench(small_plan(4), tmp_path, backend).run()).runs
    assert run.effective_settings == {"max_num_seqs": "unknown", "policy": "naive"}
    assert run.valid


def test_options_of_a_kind_are_no_settings_of_the_engine() -> None:
    told = effective_settings({"dtype": "float16", "seed": 3, "port": 8000, "tokenizer": None}, {"seed": 4, "x": 1})
    assert told == {"dtype": "unknown", "seed": 4, "x": 1}


def test_settings_that_one_side_leaves_open_do_not_differ() -> None:
    configured = {"dtype": "auto", "seed": 3, "max_model_len": None, "max_num_seqs": 2}
    effective = {"dtype": "float32", "max_model_len": 64, "max_num_seqs": 2}
    assert list(settings_differ(configured, effective)) == []


def test_a_simulated_backend_is_marked_in_its_run(tmp_path) -> None:
    backend = ScriptedBackend(VirtualClock(), simulated=True)
    [run] = asyncio.run(bench(small_plan(4), tmp_path, backend).run()).runs
    assert run.simulated


def test_cancelling_keeps_what_was_measured_and_marks_it_partial(tmp_path) -> None:
    async def main() -> Result:
        clock = VirtualClock()
        backends = ScriptedBackend(clock), ScriptedBackend(clock, answer=lambda request: Answer(ttft_s=1.0))
        watcher = SilentWatcher()
        task = asyncio.create_task(bench(small_plan(6), tmp_path, *backends, watcher=watcher).run())
        # Six answers of the first backend, two of the second.
        watcher.on_record = lambda record: len(watcher.records) == 8 and task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert backends[1].is_closed
        return load_result(tmp_path)

    result = asyncio.run(main())
    assert result.status == "partial"
    assert [(run.label, run.status, run.valid) for run in result.runs] == [
        ("a", "complete", True),
        ("b", "partial", False),
    ]
    second = result.runs[1]
    assert (second.metrics.num_requests, second.metrics.num_errors) == (2, 0)
    assert second.invalid_reasons[0].detail == "stopped after 2 of 6 requests"
    assert second.metrics.num_unfinished == sum(
        line.record.error_class == "Interrupted" for line in read_records(tmp_path / "records.jsonl")
    )


def test_a_backend_that_does_not_start_keeps_the_runs_before_it(tmp_path) -> None:
    clock = VirtualClock()

    class Broken(ScriptedBackend):
        async def start(self) -> None:
            raise StartFailed("no memory", backend="b")

    with pytest.raises(StartFailed, match="no memory"):
        asyncio.run(bench(small_plan(4), tmp_path, ScriptedBackend(clock), Broken(clock)).run())
    result = load_result(tmp_path)
    assert (result.status, [run.label for run in result.runs]) == ("partial", ["a"])
    [failure] = result.failures
    assert (failure.label, failure.load, failure.error_class) == ("b", None, "StartFailed")
    assert "no memory" in failure.message


def test_a_plan_that_the_backend_cannot_do_is_refused_before_anything_is_sent(tmp_path) -> None:
    backend = ScriptedBackend(VirtualClock(), features=frozenset({Feature.TEXT_PROMPT}))
    with pytest.raises(UnsupportedFeature, match="ignore_eos"):
        asyncio.run(bench(small_plan(4), tmp_path, backend).run())
    assert backend.seen == []


def test_a_plan_longer_than_the_context_is_refused_before_anything_is_sent(tmp_path) -> None:
    backend = ScriptedBackend(VirtualClock(), max_model_len=4)
    with pytest.raises(ContextTooLong):
        asyncio.run(bench(small_plan(4), tmp_path, backend).run())
    assert backend.seen == []
    [failure] = load_result(tmp_path).failures
    assert (failure.load, failure.error_class) == (Load(users=2), "ContextTooLong")


def test_the_engine_is_sampled_at_fixed_instants_beside_the_load(tmp_path) -> None:
    backend = ScriptedBackend(VirtualClock(), answer=lambda request: Answer(ttft_s=1.0))
    asyncio.run(bench(small_plan(4), tmp_path, backend, sample_interval_s=0.5).run())
    samples = read_samples(tmp_path / "timeseries.jsonl")
    assert [round(sample.at, 6) for sample in samples] == [0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.02]
    assert samples[2].num_running == 2
    assert samples[2].num_in_flight == 2


def test_policy_figures_come_from_the_counters_before_and_after_the_run_alone(tmp_path) -> None:
    backend = ScriptedBackend(VirtualClock())
    backend.stats_extra = lambda: {
        "enginebay_engine_computed_tokens_total": 100.0 * len(backend.seen),
        "enginebay_engine_padding_tokens_total": 25.0 * max(0, len(backend.seen) - 2),
    }
    [run] = asyncio.run(bench(small_plan(4, num_warmup=2), tmp_path, backend).run()).runs
    assert run.metrics.padding_ratio == pytest.approx(0.25)
