"""Answers of an OpenAI server, and what is asked of it beside them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from openai_http_asking import CHAT, connections, request, run, serving, settled

from enginebay import get_backend
from enginebay.errors import (
    BackendOverloaded,
    BackendTimeout,
    BackendUnavailable,
    DeadlineExceeded,
    EngineDied,
    EngineStepFailed,
    UnknownModel,
    UnsupportedFeature,
    UpstreamError,
)
from enginebay.testing import FakeClock, Fault, Script, ScriptedServer
from enginebay.types import (
    EngineStats,
    FinishReason,
    HealthState,
    Text,
    TokenIds,
    Usage,
)

# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("prompt", [Text("hello there"), TokenIds((5, 6)), CHAT], ids=["text", "ids", "chat"])
@pytest.mark.parametrize("owned_by", ["enginebay", "acme"])
def test_a_stream_and_a_whole_answer_say_the_same(prompt, owned_by):
    async def main():
        async with serving(owned_by=owned_by) as (server, backend):
            chunks = [chunk async for chunk in backend.generate(request(prompt))]
            [whole] = [chunk async for chunk in backend.generate(request(prompt, delivery="final"))]
            assert "".join(chunk.text for chunk in chunks) == whole.text == " the quick brown fox"
            assert chunks[-1].usage == whole.usage == Usage(2, 4)
            assert chunks[-1].finish_reason is whole.finish_reason is FinishReason.LENGTH
            assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * 3
            assert [chunk.num_tokens for chunk in chunks] == ([1] * 4 if owned_by == "enginebay" else [None] * 4)
            assert whole.num_tokens == 4
            assert "stream" not in server.generations[1].json()
            assert connections(backend) == (1, 1, 0)

    run(main)


def test_chunks_carry_the_instants_at_which_their_bytes_arrived():
    clock = FakeClock(100.0)
    script = Script(head_after_s=1.0, first_token_after_s=0.5, token_gap_s=0.25)

    async def main():
        async with ScriptedServer(script, clock=clock) as server:

            async def ask():
                async with get_backend("openai_http", url=server.url, model="scripted", clock=clock) as backend:
                    return [chunk.received_at async for chunk in backend.generate(request())]

            assert await clock.run(ask()) == pytest.approx([101.5, 101.75, 102.0, 102.25])

    run(main)


def test_a_server_that_streams_though_it_should_not_have_and_one_that_does_not_are_both_understood():
    async def handle(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1]
        body = {
            b"/v1/models": b'{"data": [{"id": "m"}]}',
            b"/v1/completions": b'{"choices": [{"index": 0, "text": "all", "finish_reason": "stop"}], '
            b'"usage": {"prompt_tokens": 1, "completion_tokens": 1}}',
        }.get(path, b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n" + body)
        writer.close()

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, get_backend("openai_http", url=url, model="m") as backend:
            [chunk] = [chunk async for chunk in backend.generate(request())]
            assert (chunk.text, chunk.usage) == ("all", Usage(1, 1))

    run(main)


@pytest.mark.parametrize(
    ("fault", "error", "problem"),
    [
        (Fault.REFUSE, BackendUnavailable, "without an answer"),
        (Fault.LOADING, BackendUnavailable, "the model is loading"),
        (Fault.OVERLOADED, BackendOverloaded, "too many requests"),
        (Fault.INTERNAL_ERROR, EngineStepFailed, "the engine failed"),
        (Fault.CUT, BackendUnavailable, "in the middle of its answer"),
        (Fault.MALFORMED, UpstreamError, "not understood"),
        (Fault.ERROR_EVENT, EngineDied, "the engine died"),
        (Fault.NO_USAGE, UpstreamError, "without usage"),
        (Fault.NO_FINISH, UpstreamError, "without a finish_reason"),
        (Fault.UNKNOWN_FINISH, UpstreamError, "boredom"),
    ],
)
def test_each_fault_of_a_server_is_a_typed_error_and_leaves_nothing_behind(fault, error, problem):
    async def main():
        async with serving(Script(fault=fault, fault_after_tokens=2)) as (server, backend):
            with pytest.raises(error, match=problem) as caught:
                [chunk async for chunk in backend.generate(request())]
            assert caught.value.backend == "openai_http"
            num_open, num_idle, num_waiting = connections(backend)
            assert (num_open - num_idle, num_waiting) == (0, 0)
            await settled(lambda: server.num_live_streams == 0)
            server.script = Script()
            assert len([chunk async for chunk in backend.generate(request())]) == 4

    run(main)


def test_overload_tells_when_to_come_again():
    async def main():
        async with serving(Script(fault=Fault.OVERLOADED)) as (_, backend):
            with pytest.raises(BackendOverloaded) as caught:
                [chunk async for chunk in backend.generate(request())]
            assert caught.value.retry_after_s == 2

    run(main)


def test_wrong_usage_is_passed_on_as_told_for_others_to_compare():
    async def main():
        async with serving(Script(fault=Fault.WRONG_USAGE)) as (_, backend):
            chunks = [chunk async for chunk in backend.generate(request())]
            assert chunks[-1].usage == Usage(2, 5)
            assert sum(chunk.num_tokens for chunk in chunks) == 4

    run(main)


def test_an_adapter_that_the_server_does_not_have_is_an_unknown_model():
    async def main():
        async with serving(owned_by="vllm") as (_, backend):
            with pytest.raises(UnknownModel, match="lora"):
                [chunk async for chunk in backend.generate(request(adapter="lora"))]

    run(main)


def test_a_stalled_stream_times_out_and_a_deadline_has_its_own_error():
    clock = FakeClock()
    options = {"idle_timeout_s": 5.0, "first_byte_timeout_s": 50.0}

    async def ask(server):
        async with get_backend(
            "openai_http", url=server.url, model="scripted", clock=clock, options=options
        ) as backend:
            began_at = clock.now()
            with pytest.raises(BackendTimeout, match="sent nothing for 5 s"):
                [chunk async for chunk in backend.generate(request())]
            assert clock.now() - began_at == pytest.approx(5.0, abs=0.05)
            with pytest.raises(DeadlineExceeded, match="before the answer was finished"):
                [chunk async for chunk in backend.generate(request(deadline_at=clock.now() + 2.0))]
            with pytest.raises(DeadlineExceeded, match="before the request was sent"):
                [chunk async for chunk in backend.generate(request(deadline_at=clock.now() - 1.0))]
            assert connections(backend) == (0, 0, 0)

    async def main():
        async with ScriptedServer(Script(fault=Fault.STALL, fault_after_tokens=1), clock=clock) as server:
            await clock.run(ask(server))

    run(main)


# ---------------------------------------------------------------- beside the data path


def test_health_metrics_and_token_counts_answer_while_every_connection_is_busy():
    async def main():
        async with serving(Script(fault=Fault.STALL), options={"max_connections": 2}) as (server, backend):
            tasks = [asyncio.create_task(anext(backend.generate(request()))) for _ in range(4)]
            await settled(lambda: server.num_live_streams == 2)
            assert (await backend.health()).state is HealthState.READY
            assert (await backend.stats()).batch_size == 2
            assert await backend.count_tokens(Text("one two three")) == (0, 1, 2)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    run(main)


def test_tokens_are_counted_for_what_tokenize_can_say_and_refused_for_the_rest():
    async def main():
        async with serving() as (_, backend):
            assert await backend.count_tokens(TokenIds((4, 5))) == (4, 5)
            assert len(await backend.count_tokens(CHAT)) == 2
            with pytest.raises(UnsupportedFeature, match="chat_template_kwargs"):
                await backend.count_tokens(replace(CHAT, template_kwargs={"a": 1}))

    run(main)


def test_the_statistics_of_our_own_server_are_read_and_counters_kept_by_name():
    metrics = """
llm_requests_total{backend="b",outcome="length"} 5
llm_requests_total{backend="b",outcome="cancelled"} 2
llm_requests_in_flight{backend="b"} 7
llm_queue_depth{backend="b"} 3
llm_kv_cache_usage_ratio{backend="b"} 0.25
llm_time_to_first_token_seconds_bucket{backend="b",le="0.1"} 4
llm_time_to_first_token_seconds_bucket{backend="b",le="+Inf"} 5
llm_time_to_first_token_seconds_sum{backend="b"} 0.75
enginebay_engine_steps_total{backend="b"} 40
enginebay_engine_padding_tokens_total{backend="b"} 12
"""

    async def main():
        async with serving() as (server, backend):
            server.more_metrics = metrics
            stats = await backend.stats()
            assert stats.requests_total_by_finish_reason == {"length": 5, "cancelled": 2}
            assert (stats.requests_running, stats.requests_waiting, stats.kv_cache_usage_ratio) == (4, 3, 0.25)
            assert stats.ttft_seconds.counts == (4, 5)
            assert stats.ttft_seconds.sum == 0.75
            assert stats.extra == {"enginebay_engine_steps_total": 40, "enginebay_engine_padding_tokens_total": 12}
            assert stats.gpu_memory_bytes is None

    run(main)


def test_a_server_without_metrics_tells_nothing():
    async def handle(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        is_models = b"/v1/models" in head
        body = b'{"data": [{"id": "m"}]}' if is_models else b"nothing here"
        status = b"200 OK" if is_models else b"404 Not Found"
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(body), body))
        writer.close()

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, get_backend("openai_http", url=url, model="m") as backend:
            assert await backend.stats() == EngineStats()
            assert backend.info.engine_version is None
            assert not backend.info.simulated
            assert (await backend.health()).state is HealthState.READY

    run(main)
