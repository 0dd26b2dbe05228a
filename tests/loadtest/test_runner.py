import asyncio

import pytest
from loadtest_fakes import Answer, ScriptedBackend, VirtualClock, planned, started

from enginebay.errors import EngineDied
from enginebay.loadtest.plan import Load
from enginebay.loadtest.recording import make_record
from enginebay.loadtest.records import Record
from enginebay.loadtest.runner import Runner
from enginebay.types import FinishReason, GenerationChunk, GenerationRequest, Usage


async def replay(backend: ScriptedBackend, requests, load: Load, **settings) -> list[Record]:
    records: list[Record] = []
    runner = Runner(await started(backend), clock=backend.clock, on_record=records.append, **settings)
    await runner.run(requests, load)
    return records


def test_offsets_of_an_open_loop_are_absolute_and_do_not_drift_behind_slow_answers() -> None:
    async def main() -> None:
        clock = VirtualClock()
        backend = ScriptedBackend(clock, answer=lambda request: Answer(ttft_s=5.0))
        requests = [planned(index, offset_s=index / 10) for index in range(50)]
        records = await replay(backend, requests, Load(rate=10.0, arrivals="constant"))
        assert [record.scheduled_at for record in records] == pytest.approx([index / 10 for index in range(50)])
        assert [record.sent_at for record in records] == pytest.approx([index / 10 for index in range(50)])

    asyncio.run(main())


def test_a_client_that_wakes_late_is_late_by_as_much_each_time_and_the_rate_does_not_drift() -> None:
    class LateClock(VirtualClock):
        async def sleep_until(self, instant: float) -> None:
            await super().sleep_until(instant + 0.005)

    async def main() -> None:
        backend = ScriptedBackend(LateClock())
        requests = [planned(index, offset_s=index / 10) for index in range(1, 51)]
        records = await replay(backend, requests, Load(rate=10.0, arrivals="constant"))
        records.sort(key=lambda record: record.index)
        assert [record.scheduled_at for record in records] == pytest.approx([index / 10 for index in range(1, 51)])
        assert [record.sent_at - record.scheduled_at for record in records] == pytest.approx([0.005] * 50)

    asyncio.run(main())


def test_a_closed_loop_never_has_more_requests_under_way_than_users_and_sends_each_once() -> None:
    async def main() -> None:
        most_running = 0

        def answer(request: GenerationRequest) -> Answer:
            nonlocal most_running
            most_running = max(most_running, backend.num_running + 1)
            return Answer(ttft_s=0.1 * (1 + len(backend.seen) % 3))

        backend = ScriptedBackend(VirtualClock(), answer=answer)
        records = await replay(backend, [planned(index) for index in range(20)], Load(users=3))
        assert most_running == 3
        assert sorted(record.index for record in records) == list(range(20))

    asyncio.run(main())


def test_a_user_asks_again_at_the_instant_its_answer_is_complete() -> None:
    async def main() -> None:
        backend = ScriptedBackend(VirtualClock())
        records = await replay(backend, [planned(index) for index in range(3)], Load(users=1))
        assert [record.sent_at for record in records] == pytest.approx([0.0, 0.11, 0.22])

    asyncio.run(main())


def test_a_role_only_chunk_is_no_token() -> None:
    async def main() -> None:
        [record] = await replay(ScriptedBackend(VirtualClock()), [planned(0, max_tokens=3)], Load(users=1))
        assert record.first_token_at == pytest.approx(0.1)
        assert record.last_token_at == pytest.approx(0.12)
        assert [arrival.num_tokens for arrival in record.arrivals] == [1, 1, 1]
        assert record.num_chunks == 5

    asyncio.run(main())


def test_an_error_in_mid_stream_is_recorded_with_what_came_before_and_the_others_go_on() -> None:
    async def main() -> None:
        def answer(request: GenerationRequest) -> Answer:
            return Answer(error=EngineDied("gone") if request.request_id.endswith("-1") else None)

        backend = ScriptedBackend(VirtualClock(), answer=answer)
        records = await replay(backend, [planned(index) for index in range(4)], Load(users=2))
        by_index = {record.index: record for record in records}
        assert (by_index[1].error_class, by_index[1].error_message) == ("EngineDied", "gone")
        assert len(by_index[1].arrivals) == 1
        assert [by_index[index].is_finished for index in range(4)] == [True, False, True, True]

    asyncio.run(main())


def test_a_request_without_a_complete_answer_in_time_is_an_error() -> None:
    async def main() -> None:
        class SilentForever(ScriptedBackend):
            async def generate(self, request: GenerationRequest):
                await asyncio.Event().wait()
                yield GenerationChunk(received_at=0.0)

        [record] = await replay(SilentForever(VirtualClock()), [planned(0)], Load(users=1), request_timeout_s=0.01)
        assert record.error_class == "BackendTimeout"

    asyncio.run(main())


def test_a_cancelled_run_records_what_was_under_way_as_interrupted() -> None:
    async def main() -> None:
        clock = VirtualClock()
        records: list[Record] = []
        backend = ScriptedBackend(clock, answer=lambda request: Answer(ttft_s=1.0))
        runner = Runner(await started(backend), clock=clock, on_record=records.append)
        running = asyncio.create_task(runner.run([planned(index) for index in range(6)], Load(users=2)))
        await clock.sleep_until(clock.now() + 1.5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert [record.error_class for record in records] == [None, None, "Interrupted", "Interrupted"]
        assert backend.num_running == 0
        assert runner.num_in_flight == 0

    asyncio.run(main())


def record_of(*chunks: GenerationChunk) -> Record:
    return make_record(planned(0), chunks, zero=10.0, scheduled_at=10.0, sent_at=10.0, ended_at=12.0, error=None)


def test_several_tokens_of_one_chunk_share_its_arrival() -> None:
    record = record_of(
        GenerationChunk(text="a b", token_ids=(1, 2), received_at=11.0),
        GenerationChunk(text=" c d e", num_tokens=3, received_at=11.5),
    )
    assert [(arrival.at, arrival.num_tokens) for arrival in record.arrivals] == [(1.0, 2), (1.5, 3)]
    assert record.num_uncounted_chunks == 0


def test_cumulative_usage_counts_the_tokens_of_a_chunk() -> None:
    record = record_of(
        GenerationChunk(text="a", received_at=11.0, usage=Usage(3, 2)),
        GenerationChunk(text="b", received_at=11.5, usage=Usage(3, 5)),
        GenerationChunk(received_at=11.6, usage=Usage(3, 5), finish_reason=FinishReason.LENGTH),
    )
    assert [arrival.num_tokens for arrival in record.arrivals] == [2, 3]
    assert record.num_output_tokens == 5


def test_where_nobody_counts_a_chunk_with_text_is_one_token_and_is_told_apart() -> None:
    record = record_of(
        GenerationChunk(received_at=10.5),
        GenerationChunk(text="a", received_at=11.0),
        GenerationChunk(text="b", received_at=11.5),
        GenerationChunk(received_at=11.6, usage=Usage(3, 7), finish_reason=FinishReason.STOP),
    )
    assert [(arrival.at, arrival.num_tokens) for arrival in record.arrivals] == [(1.0, 1), (1.5, 1)]
    assert record.num_uncounted_chunks == 2
    assert record.num_output_tokens == 7


def test_the_cumulative_usage_of_an_empty_first_chunk_adds_no_token() -> None:
    record = record_of(GenerationChunk(received_at=10.5, usage=Usage(3, 0)))
    assert record.arrivals == []
    assert record.num_uncounted_chunks == 0
