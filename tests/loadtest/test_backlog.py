import asyncio
from collections.abc import Iterator

from loadtest_fakes import VirtualClock, planned

from enginebay.backends.http_engine.kept_answer import KeptAnswer
from enginebay.errors import UpstreamError
from enginebay.loadtest.backlog import MAX_KEPT_BYTES, Backlog, Outcome
from enginebay.loadtest.records import Record
from enginebay.testing.fake_clock import FakeClock
from enginebay.types import FinishReason, GenerationChunk, Usage

PIECE_S = 0.001
"""What decoding one takes: more than a slice."""


class SlowAnswer(KeptAnswer):
    """Three pieces, each of which takes PIECE_S; then `error`, if there is one."""

    __slots__ = ("clock", "error", "size")

    def __init__(self, clock: FakeClock, *, size: int = 100, error: UpstreamError | None = None) -> None:
        self.clock, self.size, self.error = clock, size, error

    @property
    def num_bytes(self) -> int:
        return self.size

    def decode(self, chunks: list[GenerationChunk]) -> Iterator[None]:
        for number in range(3):
            self.clock.advance(PIECE_S)
            is_last = number == 2 and self.error is None
            chunks.append(
                GenerationChunk(
                    text="x",
                    num_tokens=1,
                    received_at=float(number),
                    usage=Usage(1, 3) if is_last else None,
                    finish_reason=FinishReason.LENGTH if is_last else None,
                )
            )
            yield
        if self.error is not None:
            raise self.error


def outcome(index: int, answer: KeptAnswer | list[GenerationChunk]) -> Outcome:
    return Outcome(planned=planned(index), scheduled_at=0.0, sent_at=0.0, ended_at=2.0, error=None, answer=answer)


def test_what_is_decoded_beside_a_run_takes_one_piece_at_a_time_when_pieces_are_long() -> None:
    async def main() -> None:
        clock, records = FakeClock(), []
        backlog = Backlog(clock=clock, on_record=records.append)
        backlog.add(outcome(0, SlowAnswer(clock)))
        working = asyncio.create_task(backlog.work_off())
        await asyncio.sleep(0)
        num_records = []
        for _ in range(5):
            await clock.run_for(0.011)
            num_records.append(len(records))
        working.cancel()
        await asyncio.wait({working})
        # Each interval decodes one piece, and the fourth finds that there is none left.
        assert num_records == [0, 0, 0, 1, 1]

    asyncio.run(main())


def test_all_is_decoded_at_the_end_in_the_order_in_which_answers_ended() -> None:
    clock, records = FakeClock(), []
    backlog = Backlog(clock=clock, on_record=records.append)
    for index in (2, 0, 1):
        backlog.add(outcome(index, SlowAnswer(clock)))
    assert records == []
    backlog.finish()
    assert [record.index for record in records] == [2, 0, 1]
    assert all(record.num_output_tokens == 3 for record in records)


def test_more_than_memory_may_hold_is_decoded_at_once() -> None:
    clock = FakeClock()
    records: list[Record] = []
    backlog = Backlog(clock=clock, on_record=records.append)
    backlog.add(outcome(0, SlowAnswer(clock, size=MAX_KEPT_BYTES // 2)))
    backlog.add(outcome(1, SlowAnswer(clock, size=MAX_KEPT_BYTES // 2)))
    assert records == []
    backlog.add(outcome(2, SlowAnswer(clock, size=1000)))
    assert [record.index for record in records] == [0]


def test_an_answer_that_broke_off_keeps_what_had_come_beside_its_error() -> None:
    clock = FakeClock()
    records: list[Record] = []
    backlog = Backlog(clock=clock, on_record=records.append)
    backlog.add(outcome(0, SlowAnswer(clock, error=UpstreamError("broken"))))
    backlog.finish()
    [record] = records
    assert (record.error_class, record.error_message) == ("UpstreamError", "broken")
    assert len(record.arrivals) == 3


def test_chunks_that_need_no_decoding_are_recorded_as_their_answer_ends() -> None:
    records: list[Record] = []
    backlog = Backlog(clock=VirtualClock(), on_record=records.append)
    backlog.add(outcome(0, [GenerationChunk(text="x", num_tokens=1, received_at=1.0)]))
    assert [record.index for record in records] == [0]
