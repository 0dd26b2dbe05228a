"""Every call has exactly one outcome, told to every hook that it has come to, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from asgi_client import AsgiExchange, living, post, settle

from enginebay.errors import BackendOverloaded, EngineDied, RateLimited, RequestError
from enginebay.gateway.app import Gateway, build_app
from enginebay.gateway.call import Attempt, Call, Outcome
from enginebay.gateway.hooks import GatewayHook
from enginebay.gateway.logs import make_logger
from enginebay.guard import GuardedBackend
from enginebay.testing.fake_backend import FakeBackend, Stall, Step, say_tokens
from enginebay.testing.fake_clock import FakeClock
from enginebay.types import GenerationChunk, GenerationRequest, Usage


class Notes(GatewayHook):
    """Writes down what it hears; refuses or waits where it is told to."""

    def __init__(self, *, refusal: Exception | None = None, waits: bool = False) -> None:
        self.calls: list[Call] = []
        self.attempts: list[Attempt] = []
        self.num_chunk_tokens = 0
        self.outcomes: list[Outcome] = []
        self._refusal, self._waits = refusal, waits

    async def before_routing(self, call: Call) -> None:
        self.calls.append(call)
        if self._waits:
            await asyncio.Event().wait()
        if self._refusal is not None:
            raise self._refusal

    def before_engine(self, call: Call, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def on_chunk(self, call: Call, chunk: GenerationChunk) -> None:
        self.num_chunk_tokens += chunk.num_tokens or 0

    def at_end(self, call: Call, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @property
    def outcome(self) -> Outcome:
        [outcome] = self.outcomes
        return outcome


class OnlyTheEnd(GatewayHook):
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def at_end(self, call: Call, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


Script = Callable[[GenerationRequest], Iterable[Step]]


def three_tokens_then(*steps: Step) -> Script:
    return lambda request: [*say_tokens(request)[:6], *steps]


def run(
    test: Callable[[Gateway, FakeBackend], Awaitable[None]], hooks: Iterable[GatewayHook], script: Script = say_tokens
) -> None:
    async def main() -> None:
        clock = FakeClock(100.0)
        backend = FakeBackend(script=script, clock=clock)
        log = make_logger(level="critical")
        app = build_app(GuardedBackend(backend), served_name="m", clock=clock, log=log, hooks=[*hooks])
        async with living(app):
            await clock.run(test(app, backend))
            await asyncio.sleep(0)
            assert backend.num_live_streams == 0

    asyncio.run(main())


FIELDS: dict[str, Any] = {"model": "m", "prompt": "one two three", "max_tokens": 5}


@pytest.mark.parametrize("stream", [False, True])
def test_a_finished_call_ends_with_the_engines_usage_before_its_last_byte(stream: bool) -> None:
    notes = Notes()
    order: list[str] = []

    class Order(GatewayHook):
        def at_end(self, call: Call, outcome: Outcome) -> None:
            order.append("end")

    async def test(app: Gateway, backend: FakeBackend) -> None:
        exchange = post(app, "/v1/completions", {**FIELDS, "stream": stream}, headers={"x-request-id": "mine"})
        exchange.on_message = lambda message: order.append("sent") if not message.get("more_body", True) else None
        await exchange.task
        assert exchange.status == 200

    run(test, [notes, Order()])
    assert notes.outcome == Outcome(
        kind="finished",
        error_code=None,
        num_prompt_tokens=3,
        num_cached_tokens=None,
        num_output_tokens=5,
        num_unbilled_tokens=0,
        usages=(Usage(3, 5),),
        ended_at=100.0,
    )
    [call] = notes.calls
    assert (call.request_id, call.model, call.client.address, call.num_received_tokens) == ("mine", "m", "127.0.0.1", 5)
    assert call.body_bytes > 50
    assert call.first_token_at == 100.0
    assert [attempt.replica for attempt in call.attempts] == ["0"]
    assert call.attempts == notes.attempts
    assert notes.num_chunk_tokens == 5
    assert order == ["end", "sent"]


def test_choices_share_one_call_and_a_prompt_counts_once_for_its_choices() -> None:
    notes = Notes()

    async def test(app: Gateway, backend: FakeBackend) -> None:
        exchange = post(app, "/v1/completions", {**FIELDS, "prompt": ["a b", "c"], "n": 2, "stream": True})
        await exchange.task
        assert exchange.status == 200

    run(test, [notes])
    assert (notes.outcome.num_prompt_tokens, notes.outcome.num_output_tokens) == (3, 20)
    assert len(notes.calls[0].requests) == len(notes.attempts) == 4
    assert notes.calls[0].num_received_tokens == 20


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_first_byte_is_cancelled(stream: bool) -> None:
    notes = Notes()

    async def test(app: Gateway, backend: FakeBackend) -> None:
        exchange = post(app, "/v1/completions", {**FIELDS, "stream": stream})
        await settle()
        assert backend.num_live_streams == 1
        exchange.leave()
        await exchange.task
        assert exchange.messages == []
        assert backend.num_cancelled == 1

    run(test, [notes], lambda request: [Stall()])
    assert (notes.outcome.kind, notes.outcome.error_code, notes.outcome.num_output_tokens) == ("cancelled", None, 0)


def test_a_client_that_leaves_in_the_middle_is_cancelled_with_the_tokens_that_came() -> None:
    notes = Notes()

    async def test(app: Gateway, backend: FakeBackend) -> None:
        exchange = post(app, "/v1/completions", {**FIELDS, "stream": True})
        while notes.num_chunk_tokens < 3:
            await exchange.next_message()
        exchange.leave()
        await exchange.task
        assert backend.num_cancelled == 1

    run(test, [notes], three_tokens_then(Stall()))
    assert (notes.outcome.kind, notes.outcome.num_output_tokens, notes.outcome.num_unbilled_tokens) == (
        "cancelled",
        3,
        None,
    )


def test_a_client_that_leaves_while_it_waits_to_be_admitted_is_cancelled() -> None:
    first, waiting, never_entered, only_the_end = Notes(), Notes(waits=True), Notes(), OnlyTheEnd()

    async def test(app: Gateway, backend: FakeBackend) -> None:
        exchange = post(app, "/v1/completions", FIELDS)
        await settle()
        assert waiting.calls
        exchange.leave()
        await exchange.task
        assert backend.requests == []

    run(test, [first, waiting, never_entered, only_the_end])
    assert [notes.outcome.kind for notes in (first, waiting)] == ["cancelled", "cancelled"]
    assert [outcome.kind for outcome in only_the_end.outcomes] == ["cancelled"]
    assert never_entered.outcomes == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (RateLimited("too many", retry_after_s=1.5), 429, "rate_limit_exceeded"),
        (BackendOverloaded("full", retry_after_s=2), 503, "overloaded"),
    ],
)
def test_a_refused_call_ends_for_the_hooks_that_it_had_come_to(
    refusal: RequestError | BackendOverloaded, status: int, code: str, stream: bool
) -> None:
    before, refusing, after, only_the_end = Notes(), Notes(refusal=refusal), Notes(), OnlyTheEnd()

    async def test(app: Gateway, backend: FakeBackend) -> None:
        exchange = post(app, "/v1/completions", {**FIELDS, "stream": stream})
        await exchange.task
        assert (exchange.status, exchange.json()["error"]["code"]) == (status, code)
        assert exchange.header("retry-after") == "2"
        assert backend.requests == []

    run(test, [before, refusing, after, only_the_end])
    for outcome in (before.outcome, refusing.outcome, only_the_end.outcomes[0]):
        assert (outcome.kind, outcome.error_code) == ("refused", code)
    assert len(only_the_end.outcomes) == 1
    assert after.calls == after.outcomes == []


def test_what_a_backend_refuses_at_the_call_is_a_refusal() -> None:
    notes = Notes()

    async def test(app: Gateway, backend: FakeBackend) -> None:
        exchange = post(app, "/v1/completions", {**FIELDS, "temperature": -1})
        await exchange.task
        assert exchange.status == 400

    run(test, [notes])
    assert (notes.outcome.kind, notes.outcome.error_code) == ("refused", "invalid_request")


@pytest.mark.parametrize(
    ("stream", "status", "num_tokens"), [(False, 502, 3), (True, 200, 3)], ids=["whole", "streamed"]
)
def test_an_engine_that_dies_in_the_middle_fails_the_call(stream: bool, status: int, num_tokens: int) -> None:
    notes = Notes()

    async def test(app: Gateway, backend: FakeBackend) -> None:
        exchange = post(app, "/v1/completions", {**FIELDS, "stream": stream})
        await exchange.task
        assert exchange.status == status
        told = exchange.events()[-1] if stream else exchange.json()
        assert told["error"]["code"] == "engine_died"

    run(test, [notes], three_tokens_then(EngineDied("gone")))
    assert (notes.outcome.kind, notes.outcome.error_code) == ("failed", "engine_died")
    assert notes.outcome.num_output_tokens == num_tokens


def test_calls_that_the_end_of_the_server_ends_have_failed() -> None:
    notes = Notes()

    async def test(app: Gateway, backend: FakeBackend) -> None:
        exchange = post(app, "/v1/completions", {**FIELDS, "stream": True})
        while notes.num_chunk_tokens < 3:
            await exchange.next_message()
        app.end_open_requests()
        await exchange.task
        assert exchange.events()[-1]["error"]["code"] == "shutting_down"

    run(test, [notes], three_tokens_then(Stall()))
    assert (notes.outcome.kind, notes.outcome.error_code) == ("failed", "shutting_down")


def test_a_hook_that_fails_in_a_chunk_fails_the_call_and_one_that_fails_at_the_end_does_not() -> None:
    class FailsAtEnd(GatewayHook):
        def at_end(self, call: Call, outcome: Outcome) -> None:
            raise ZeroDivisionError

    class FailsInChunk(GatewayHook):
        def on_chunk(self, call: Call, chunk: GenerationChunk) -> None:
            raise ZeroDivisionError

    failed, finished = OnlyTheEnd(), OnlyTheEnd()

    async def is_answered_with(app: Gateway, status: int) -> None:
        exchange = post(app, "/v1/completions", FIELDS)
        await exchange.task
        assert exchange.status == status

    run(lambda app, backend: is_answered_with(app, 500), [FailsInChunk(), failed])
    assert [(outcome.kind, outcome.error_code) for outcome in failed.outcomes] == [("failed", "internal_error")]
    run(lambda app, backend: is_answered_with(app, 200), [FailsAtEnd(), finished])
    assert [outcome.kind for outcome in finished.outcomes] == ["finished"]


def test_usage_is_exact_for_a_stream_whose_client_did_not_ask_for_it() -> None:
    notes = Notes()

    def said_without_counts(request: GenerationRequest) -> list[Step]:
        """As an engine that tells no tokens on the way, and its usage at the end."""
        steps = say_tokens(request)
        silent = [
            replace(step, num_tokens=None, token_ids=None) if isinstance(step, GenerationChunk) else step
            for step in steps
        ]
        last = silent[-1]
        assert isinstance(last, GenerationChunk)
        return [*silent[:-1], replace(last, usage=Usage(3, 5, 2, 1))]

    async def test(app: Gateway, backend: FakeBackend) -> None:
        exchange: AsgiExchange = post(app, "/v1/completions", {**FIELDS, "stream": True})
        await exchange.task
        assert all("usage" not in event for event in exchange.events())

    run(test, [notes], said_without_counts)
    outcome = notes.outcome
    assert (outcome.num_prompt_tokens, outcome.num_output_tokens, outcome.num_cached_tokens) == (3, 5, 2)
    assert outcome.num_unbilled_tokens == 1


class TellsPrompts(GatewayHook):
    """As a limit that had the prompt counted; then it may wait."""

    def __init__(self, *, waits: bool) -> None:
        self._waits = waits

    async def before_routing(self, call: Call) -> None:
        call.num_prompt_tokens = 3
        if self._waits:
            await asyncio.Event().wait()


@pytest.mark.parametrize(("waits", "num_prompt_tokens"), [(True, 0), (False, 3)], ids=["before an engine", "in one"])
def test_a_prompt_counts_once_an_engine_was_asked_to_compute_it(waits: bool, num_prompt_tokens: int) -> None:
    notes = Notes()

    async def test(app: Gateway, backend: FakeBackend) -> None:
        exchange = post(app, "/v1/completions", FIELDS)
        await settle()
        exchange.leave()
        await exchange.task

    run(test, [notes, TellsPrompts(waits=waits)], lambda request: [Stall()])
    assert (notes.outcome.kind, notes.outcome.num_prompt_tokens) == ("cancelled", num_prompt_tokens)
