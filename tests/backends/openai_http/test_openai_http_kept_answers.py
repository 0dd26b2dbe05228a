"""An answer that was kept as bytes and decoded later is the answer that a stream gives."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from openai_http_asking import CHAT, connections, request, run, serving, settled

from enginebay import get_backend
from enginebay.backends.openai_http.backend import OpenAIHttpBackend
from enginebay.errors import BackendUnavailable, EngineBayError, NotStarted
from enginebay.guard import GuardedBackend
from enginebay.testing import Fault, Script, ScriptedServer
from enginebay.types import GenerationChunk, Text, TokenIds

FAULTS = [
    None,
    Fault.REFUSE,
    Fault.LOADING,
    Fault.OVERLOADED,
    Fault.INTERNAL_ERROR,
    Fault.CUT,
    Fault.MALFORMED,
    Fault.ERROR_EVENT,
    Fault.WRONG_USAGE,
    Fault.NO_USAGE,
    Fault.NO_FINISH,
    Fault.NO_DONE,
    Fault.UNKNOWN_FINISH,
    Fault.CLOSE,
]
Outcome = tuple[list[GenerationChunk], str | None]


def inner_of(backend: GuardedBackend) -> OpenAIHttpBackend:
    assert isinstance(backend.inner, OpenAIHttpBackend)
    return backend.inner


async def streamed(backend, asked) -> Outcome:
    chunks: list[GenerationChunk] = []
    try:
        async for chunk in backend.generate(asked):
            chunks.append(chunk)
    except EngineBayError as error:
        return chunks, f"{type(error).__name__}: {error}"
    return chunks, None


async def kept(backend, asked, *, timeout_s: float | None = None) -> Outcome:
    answer = inner_of(backend).keep_answer(asked, timeout_s=timeout_s)
    await answer.exchange()
    chunks: list[GenerationChunk] = []
    try:
        for _ in answer.decode(chunks):
            pass
    except EngineBayError as error:
        return chunks, f"{type(error).__name__}: {error}"
    return chunks, None


def without_instants(outcome: Outcome) -> tuple[list[tuple], str | None]:
    chunks, error = outcome
    told = [
        (chunk.text, chunk.token_ids, chunk.num_tokens, chunk.usage, chunk.finish_reason, chunk.stop_reason)
        for chunk in chunks
    ]
    return told, error and error.replace("127.0.0.1", "")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("delivery", ["stream", "final"])
def test_it_has_the_same_chunks_and_the_same_error_as_the_stream(fault, delivery):
    async def main():
        async with serving(Script(num_tokens=4, fault=fault, fault_after_tokens=2)) as (_, backend):
            asked = request(delivery=delivery)
            # The scripted server says nothing after a malformed event: only a stream is closed at once.
            assert without_instants(await kept(backend, asked, timeout_s=0.5)) == without_instants(
                await streamed(backend, asked)
            )

    run(main)


@pytest.mark.parametrize("prompt", [Text("hello there"), TokenIds((5, 6)), CHAT], ids=["text", "ids", "chat"])
@pytest.mark.parametrize("owned_by", ["enginebay", "acme"])
def test_it_is_the_same_in_every_form_and_dialect_and_its_connection_is_used_again(prompt, owned_by):
    async def main():
        async with serving(owned_by=owned_by) as (server, backend):
            asked = request(prompt)
            first, second = await kept(backend, asked), await kept(backend, asked)
            assert without_instants(first) == without_instants(second)
            assert without_instants(first) == without_instants(await streamed(backend, asked))
            assert [one.body for one in server.generations[1:]] == [server.generations[0].body] * 2
            assert connections(backend) == (1, 1, 0)

    run(main)


def test_its_chunks_carry_the_instants_at_which_their_bytes_arrived_however_late_they_are_decoded():
    async def main():
        async with serving(Script(first_token_after_s=0.03, token_gap_s=0.03)) as (_, backend):
            answer = inner_of(backend).keep_answer(request(), timeout_s=None)
            await answer.exchange()
            await asyncio.sleep(0.2)
            chunks: list[GenerationChunk] = []
            list(answer.decode(chunks))
            gaps = [later.received_at - chunk.received_at for chunk, later in itertools.pairwise(chunks)]
            assert len(gaps) == 3
            assert all(0.02 < gap < 0.15 for gap in gaps)

    run(main)


def test_nothing_is_sent_before_it_is_told_to():
    async def main():
        async with serving() as (server, backend):
            inner_of(backend).keep_answer(request(), timeout_s=None)
            assert server.generations == []

    run(main)


def test_a_cancelled_exchange_closes_its_connection_and_keeps_what_came():
    async def main():
        async with serving(Script(fault=Fault.STALL, fault_after_tokens=2)) as (_, backend):
            answer = inner_of(backend).keep_answer(request(), timeout_s=None)
            exchanging = asyncio.create_task(answer.exchange())
            await settled(lambda: answer.num_bytes > 0)
            exchanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exchanging
            chunks: list[GenerationChunk] = []
            with pytest.raises(BackendUnavailable, match="ended the stream before the answer was finished"):
                list(answer.decode(chunks))
            assert [chunk.num_tokens for chunk in chunks] == [1, 1]
            assert connections(backend)[0] == 0

    run(main)


def test_an_answer_that_does_not_end_in_time_is_an_error_after_what_came():
    async def main():
        async with serving(Script(fault=Fault.STALL, fault_after_tokens=3)) as (_, backend):
            chunks, error = await kept(backend, request(), timeout_s=0.2)
            assert len(chunks) == 3
            assert error is not None
            assert "did not finish its answer within 0.2 s" in error

    run(main)


def test_before_the_start_it_is_refused():
    async def main():
        async with ScriptedServer() as server:
            backend = get_backend("openai_http", url=server.url, model="scripted")
            with pytest.raises(NotStarted):
                inner_of(backend).keep_answer(request(), timeout_s=None)
            await backend.aclose()

    run(main)
