from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from enginebay import get_backend
from enginebay.backends.openai_http.api import OpenAIApi
from enginebay.backends.openai_http.options import OpenAIHttpOptions
from enginebay.errors import (
    BackendOverloaded,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    EngineBayError,
    EngineDied,
    EngineStepFailed,
    NotStarted,
    StartFailed,
    UnknownModel,
    UnsupportedFeature,
    UpstreamError,
)
from enginebay.testing import FakeClock, Fault, Script, ScriptedServer
from enginebay.types import (
    Chat,
    EngineStats,
    Feature,
    FinishReason,
    GenerationRequest,
    HealthState,
    Message,
    SamplingParams,
    Text,
    TokenIds,
    Usage,
)
from enginebay.wire.http_types import HttpResponse

CHAT = Chat((Message("user", "hello there"),))


def request(prompt=None, max_tokens=4, **fields) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=max_tokens)
    return GenerationRequest(request_id="r1", prompt=prompt or Text("hello there"), sampling=sampling, **fields)


def run(main):
    async def with_no_task_left():
        await asyncio.wait_for(main(), 30)

    asyncio.run(with_no_task_left())


@asynccontextmanager
async def serving(script=None, *, clock=None, options=None, **server_settings):
    """A scripted server and a started backend in front of it."""
    async with ScriptedServer(script, clock=clock, **server_settings) as server:
        backend = get_backend("openai_http", url=server.url, model="scripted", clock=clock, options=options)
        async with backend:
            yield server, backend


def connections(backend):
    data = backend.inner._data
    return data.num_open, data.num_idle, data.num_waiting


async def settled(condition):
    for _ in range(200_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to hold")


# ---------------------------------------------------------------- start


def test_a_start_learns_model_length_version_dialect_and_that_it_is_simulated():
    async def main():
        async with serving(owned_by="vllm", max_model_len=2048) as (_, backend):
            info = backend.info
            assert (info.kind, info.model, info.max_model_len) == ("openai_http", "scripted", 2048)
            assert (info.engine_version, info.simulated) == ("scripted", True)
            assert info.effective_settings == {"dialect": "vllm", "owned_by": "vllm", "max_model_len": 2048}
            assert Feature.IGNORE_EOS in info.capabilities
            assert (await backend.health()).state is HealthState.READY

    run(main)


def test_a_server_of_unknown_make_is_asked_for_nothing_beyond_the_openai_api():
    async def main():
        async with serving(owned_by="acme") as (server, backend):
            assert Feature.IGNORE_EOS not in backend.info.capabilities
            with pytest.raises(UnsupportedFeature, match="ignore_eos"):
                backend.generate(replace(request(), sampling=SamplingParams(max_tokens=1, ignore_eos=True)))
            [chunk async for chunk in backend.generate(request())]
            assert "top_k" not in server.generations[0].json()

    run(main)


def test_the_dialect_can_be_given():
    async def main():
        async with serving(owned_by="acme", options={"dialect": "vllm"}) as (server, backend):
            [chunk async for chunk in backend.generate(request())]
            assert server.generations[0].json()["top_k"] == 0

    run(main)


def test_a_start_waits_while_the_server_loads_or_is_not_there_yet():
    clock = FakeClock()
    server = ScriptedServer(clock=clock)

    async def come_up():
        await server.start()
        port, server.health_status = server.port, 503
        await server.aclose()
        await clock.sleep_until(3.0)
        await server.start(port=port)
        await clock.sleep_until(6.0)
        server.health_status = 200

    async def ask():
        coming = asyncio.create_task(come_up())
        await settled(lambda: server.port)
        backend = get_backend("openai_http", url=server.url, model="scripted", clock=clock)
        async with backend:
            assert 6.0 <= clock.now() < 6.5
        await coming
        await server.aclose()

    run(lambda: clock.run(ask()))


@pytest.mark.parametrize(
    ("server_settings", "backend_settings", "problem", "cause"),
    [
        ({}, {"model": "other"}, "no model 'other'; it serves 'scripted'", "options.served_model_name"),
        ({"api_key": "right"}, {"options": {"api_key": "wrong"}}, "refuses us", "API key"),
    ],
)
def test_a_start_that_cannot_succeed_fails_at_once_with_the_cause(server_settings, backend_settings, problem, cause):
    async def main():
        async with ScriptedServer(**server_settings) as server:
            backend = get_backend("openai_http", url=server.url, **{"model": "scripted", **backend_settings})
            with pytest.raises(StartFailed, match=problem) as caught:
                await backend.start()
            assert cause in caught.value.likely_cause

    run(main)


def test_a_server_that_never_becomes_ready_fails_the_start_in_time():
    clock = FakeClock()

    async def ask(server):
        backend = get_backend(
            "openai_http", url=server.url, model="scripted", clock=clock, options={"start_timeout_s": 30.0}
        )
        with pytest.raises(StartFailed, match="was not ready within 30 s") as caught:
            await backend.start()
        assert caught.value.likely_cause == "HTTP 503"
        assert clock.now() == pytest.approx(30.0, abs=0.5)

    async def main():
        async with ScriptedServer(clock=clock) as server:
            server.health_status = 503
            await clock.run(ask(server))

    run(main)


def test_the_key_and_the_extra_headers_and_fields_go_with_every_request():
    options = {"api_key": "k", "extra_headers": {"x-tenant": "t"}, "extra_body": {"stream_interval": 2}}

    async def main():
        async with serving(api_key="k", options=options) as (server, backend):
            [chunk async for chunk in backend.generate(request())]
            sent = server.generations[0]
            assert sent.headers["authorization"] == "Bearer k"
            assert sent.headers["x-tenant"] == "t"
            assert sent.headers["x-request-id"] == "r1"
            assert sent.json()["stream_interval"] == 2

    run(main)


def test_an_address_with_v1_is_the_same_address():
    async def main():
        async with (
            ScriptedServer() as server,
            get_backend("openai_http", url=server.url + "/v1/", model="scripted") as backend,
        ):
            assert [chunk.text async for chunk in backend.generate(request(max_tokens=1))] == [" the"]

    run(main)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "needs the address"),
        ({"url": "http://h", "max_num_seqs": 4}, "the server runs already"),
        ({"url": "http://h", "options": {"extra_body": {"max_tokens": 3}}}, "a request decides this itself"),
        ({"url": "http://h", "options": {"extra_headers": {"a": "b\r\nc: d"}}}, "line break"),
        ({"url": "http://h", "options": {"ca_file": "/no/such/file"}}, "cannot be read as certificates"),
        ({"url": "http://h", "options": {"api_keys": "x"}}, "Did you mean 'api_key'"),
    ],
)
def test_settings_that_cannot_work_are_config_errors(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        get_backend("openai_http", **settings)


def test_the_key_is_never_shown():
    from enginebay.backends.openai_http.options import OpenAIHttpOptions

    assert "secret-value" not in repr(OpenAIHttpOptions(api_key="secret-value"))


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


# ---------------------------------------------------------------- cancel and close


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
