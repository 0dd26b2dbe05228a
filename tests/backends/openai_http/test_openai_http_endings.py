"""Cancelled consumers, servers that go, and closing."""

from __future__ import annotations

import asyncio
import random

import anyio
import pytest
from openai_http_asking import CHAT, connections, request, run, serving, settled

from enginebay.backends.openai_http.api import OpenAIApi
from enginebay.backends.openai_http.options import OpenAIHttpOptions
from enginebay.errors import (
    BackendTimeout,
    BackendUnavailable,
    EngineBayError,
    NotStarted,
)
from enginebay.testing import Fault, Script
from enginebay.types import (
    HealthState,
    Text,
    TokenIds,
)
from enginebay.wire.http_types import HttpResponse


def test_a_stream_that_is_never_consumed_sends_nothing():
    async def main():
        async with serving() as (server, backend):
            backend.generate(request())
            assert server.num_generations == 0
            assert connections(backend) == (0, 0, 0)

    run(main)


@pytest.mark.parametrize("script", [Script(head_after_s=100), Script(fault=Fault.STALL), Script(token_gap_s=0.01)])
@pytest.mark.parametrize("how", ["task", "anyio scope"])
def test_a_cancelled_consumer_frees_the_server_before_and_after_the_first_chunk(script, how):
    async def consume(backend):
        async for _ in backend.generate(request(max_tokens=1000)):
            pass

    async def main():
        async with serving(script) as (server, backend):
            if how == "task":
                task = asyncio.create_task(consume(backend))
                await settled(lambda: server.num_live_streams == 1)
                await asyncio.sleep(0.03)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                with anyio.move_on_after(0.05) as scope:
                    await consume(backend)
                assert scope.cancelled_caught
            assert connections(backend) == (0, 0, 0)
            await settled(lambda: server.num_live_streams == 0)
            assert server.num_cancelled == 1

    run(main)


def test_a_consumer_that_stops_in_the_middle_or_at_the_last_chunk_leaves_nothing_in_flight():
    async def main():
        async with serving(Script(token_gap_s=0.005)) as (server, backend):
            stream = backend.generate(request())
            await anext(stream)
            await stream.aclose()
            assert connections(backend) == (0, 0, 0)
            stream = backend.generate(request(max_tokens=2))
            while (await anext(stream)).finish_reason is None:
                pass
            await stream.aclose()
            await settled(lambda: connections(backend) == (1, 1, 0))
            assert server.num_cancelled == 1

    run(main)


def test_a_thousand_random_cancels_kills_and_stalls_leave_nothing_behind():
    rng = random.Random(7)
    scripts = [
        *[Script(token_gap_s=0.001)] * 4,
        Script(head_after_s=0.005),
        *[Script(fault=fault, fault_after_tokens=1) for fault in Fault],
    ]
    outcomes: dict[str, int] = {}

    async def consume(backend, number):
        prompt = (Text("a b"), TokenIds((1, 2)), CHAT)[number % 3]
        delivery = "final" if number % 5 == 0 else "stream"
        try:
            chunks = [chunk async for chunk in backend.generate(request(prompt, 8, delivery=delivery))]
            outcome = "ok" if chunks[-1].finish_reason else "broken"
        except EngineBayError as error:
            outcome = type(error).__name__
        except asyncio.CancelledError:
            outcomes["cancelled"] = outcomes.get("cancelled", 0) + 1
            raise
        outcomes[outcome] = outcomes.get(outcome, 0) + 1

    async def cancel_after(num_turns, task):
        for _ in range(num_turns):
            await asyncio.sleep(0)
        task.cancel()

    async def main():
        async with serving(lambda _: rng.choice(scripts), options={"max_connections": 32}) as (server, backend):
            tasks = []
            for number in range(1000):
                task = asyncio.create_task(consume(backend, number))
                tasks += [task, asyncio.create_task(cancel_after(rng.choice((2, 5, 10, 20, 200)), task))]
                if number % 100 == 99:
                    server.disconnect_all()
                if number % 10 == 0:
                    await asyncio.sleep(0.002)
            await asyncio.wait(tasks)
            await settled(lambda: connections(backend)[0] == connections(backend)[1])
            assert connections(backend)[2] == 0
            await settled(lambda: server.num_live_streams == 0)
            assert (await backend.health()).state is HealthState.READY
        left = {task for task in asyncio.all_tasks() if task.get_coro().__name__ not in ("with_no_task_left", "main")}
        assert not left

    run(main)
    assert sum(outcomes.values()) == 1000
    assert outcomes["ok"] > 0
    assert outcomes["cancelled"] > 0
    assert outcomes.keys() <= {
        "ok", "cancelled", "BackendUnavailable", "BackendOverloaded", "EngineStepFailed", "EngineDied", "UpstreamError",
    }  # fmt: skip


def test_a_server_that_restarts_between_requests_is_survived():
    async def main():
        async with serving() as (server, backend):
            for _ in range(3):
                assert len([chunk async for chunk in backend.generate(request())]) == 4
                await server.aclose()
                assert (await backend.health()).state is HealthState.DEAD
                with pytest.raises(BackendUnavailable, match="cannot reach"):
                    [chunk async for chunk in backend.generate(request())]
                await server.start()

    run(main)


class AnswersOnce:
    """An HttpClient that is ready once, then too late or gone."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)

    async def request(self, method, path, **_):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return HttpResponse(status=answer, headers={}, body=b"", received_at=1.0)


def test_a_server_that_answers_too_late_is_slow_and_one_that_refuses_is_dead():
    late, refused = BackendTimeout("no answer within 5 s"), BackendUnavailable("connection refused")
    http = AnswersOnce(late, 200, late, refused, 200)

    async def main():
        api = OpenAIApi(OpenAIHttpOptions(), name="b")
        states = [(await api.health(http)).state for _ in range(5)]
        assert states == [
            HealthState.LOADING, HealthState.READY, HealthState.DEGRADED, HealthState.DEAD, HealthState.READY,
        ]  # fmt: skip

    run(main)


def test_closing_ends_streams_with_a_typed_error_and_is_idempotent():
    async def main():
        async with serving(Script(fault=Fault.STALL)) as (server, backend):

            async def consume():
                return [chunk async for chunk in backend.generate(request())]

            task = asyncio.create_task(consume())
            await settled(lambda: server.num_live_streams == 1)
            await backend.aclose()
            await backend.aclose()
            with pytest.raises(NotStarted):
                await task
            with pytest.raises(NotStarted):
                backend.generate(request())
            await settled(lambda: server.num_connections == 0)

    run(main)
