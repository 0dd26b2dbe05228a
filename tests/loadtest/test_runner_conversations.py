import asyncio

import msgspec
import pytest
from loadtest_fakes import Answer, ScriptedBackend, VirtualClock, planned, started

from enginebay.errors import EngineDied, LoadTestError, UnsupportedFeature
from enginebay.loadtest.plan import Load, PlannedRequest
from enginebay.loadtest.records import Record
from enginebay.loadtest.runner import Runner
from enginebay.types import GenerationRequest

ANSWER_S = 0.11
"""Of the scripted backend, for two tokens."""


def turn(index: int, *, after: int | None = None, think_time_s: float = 0.0, offset_s: float | None = None):
    return msgspec.structs.replace(planned(index, offset_s=offset_s), after=after, think_time_s=think_time_s)


def replay(backend: ScriptedBackend, requests: list[PlannedRequest], load: Load) -> dict[int, Record]:
    records: list[Record] = []

    async def main() -> None:
        await Runner(await started(backend), clock=backend.clock, on_record=records.append).run(requests, load)

    asyncio.run(main())
    return {record.index: record for record in records}


def test_a_turn_is_sent_when_the_answer_before_it_has_ended_and_its_user_has_thought() -> None:
    requests = [turn(0, offset_s=1.0), turn(1, after=0, think_time_s=2.0), turn(2, after=1, think_time_s=0.5)]
    records = replay(ScriptedBackend(VirtualClock()), requests, Load(rate=1.0, arrivals="constant"))
    second_at = 1.0 + ANSWER_S + 2.0
    third_at = second_at + ANSWER_S + 0.5
    assert [records[index].scheduled_at for index in range(3)] == pytest.approx([1.0, second_at, third_at])
    assert [records[index].sent_at for index in range(3)] == pytest.approx([1.0, second_at, third_at])


def test_a_user_of_a_closed_loop_ends_a_conversation_before_taking_the_next() -> None:
    requests = [turn(0), turn(1, after=0, think_time_s=3.0), turn(2), turn(3, after=2, think_time_s=1.0)]
    records = replay(ScriptedBackend(VirtualClock()), requests, Load(users=1))
    sent = [records[index].sent_at for index in range(4)]
    assert sent == pytest.approx([0.0, ANSWER_S + 3.0, 2 * ANSWER_S + 3.0, 3 * ANSWER_S + 4.0])


def test_conversations_of_an_open_loop_overlap_and_none_waits_for_another() -> None:
    requests = [
        turn(0, offset_s=0.0),
        turn(1, after=0, think_time_s=10.0),
        turn(2, offset_s=0.2),
        turn(3, after=2, think_time_s=0.1),
    ]
    records = replay(ScriptedBackend(VirtualClock()), requests, Load(rate=5.0, arrivals="constant"))
    assert records[3].sent_at == pytest.approx(0.2 + ANSWER_S + 0.1)
    assert records[1].sent_at == pytest.approx(ANSWER_S + 10.0)


def test_a_turn_is_sent_though_the_one_before_it_failed() -> None:
    def answer(request: GenerationRequest) -> Answer:
        return Answer(error=EngineDied("gone") if request.request_id.endswith("-0") else None)

    backend = ScriptedBackend(VirtualClock(), answer=answer)
    records = replay(backend, [turn(0), turn(1, after=0, think_time_s=1.0)], Load(users=1))
    assert records[0].is_error
    assert records[1].is_finished


@pytest.mark.parametrize(
    "requests",
    [[turn(0, after=7)], [turn(0), turn(1, after=0), turn(2, after=0)], [turn(1, after=0), turn(0)]],
    ids=["follows nothing", "two follow one", "before its own turn"],
)
def test_turns_that_form_no_conversation_are_refused_before_anything_is_sent(requests: list[PlannedRequest]) -> None:
    backend = ScriptedBackend(VirtualClock())
    with pytest.raises(LoadTestError, match="does not follow a turn before it"):
        replay(backend, requests, Load(users=1))
    assert backend.seen == []


def test_a_request_that_the_backend_refuses_is_recorded_and_the_others_are_sent() -> None:
    class Refusing(ScriptedBackend):
        def generate(self, request: GenerationRequest):
            if request.request_id.endswith("-1"):
                raise UnsupportedFeature(field="seed", backend="scripted")
            return super().generate(request)

    records = replay(Refusing(VirtualClock()), [turn(index) for index in range(3)], Load(users=1))
    assert [records[index].error_class for index in range(3)] == [None, "UnsupportedFeature", None]
