"""The simulated SGLang, asked by the official client and by hand."""

from __future__ import annotations

import asyncio

import msgspec
import openai
import pytest

from enginebay.clock import MonotonicClock
from enginebay.errors import ConfigError
from enginebay.quantities import SIMULATED_HEADER
from enginebay.testing.simulators import Simulator, SimulatorProfile, tokens
from enginebay.wire.http_client import HttpClient
from enginebay.wire.prometheus_text import parse_metrics
from enginebay.wire.sse import SseParser

MESSAGES = [{"role": "user", "content": "Where is the brown fox?"}]


def run(main):
    asyncio.run(asyncio.wait_for(main(), 30))


def simulator_of(*arguments: str, **options) -> Simulator:
    return Simulator("sglang", arguments, port=0, **options)


async def ask(simulator: Simulator, method, path: str, body: object = None):
    client = HttpClient(simulator.url, clock=MonotonicClock())
    try:
        return await client.request(method, path, body=b"" if body is None else msgspec.json.encode(body))
    finally:
        await client.aclose()


async def events_of(simulator: Simulator, **params) -> list[dict]:
    body = {"text": "the quick", "stream": True, "sampling_params": {"temperature": 0, **params}}
    answer = await ask(simulator, "POST", "/generate", body)
    *events, done = SseParser().feed(answer.body)
    assert done.data == b"[DONE]"
    assert answer.headers[SIMULATED_HEADER] == "1"
    return [msgspec.json.decode(event.data) for event in events]


def test_the_official_client_reads_completions_and_chats():
    async def main():
        async with simulator_of("--enable-cache-report") as simulator, openai.AsyncOpenAI(
            base_url=f"{simulator.url}/v1", api_key="k", max_retries=0
        ) as client:  # fmt: skip
            whole = await client.completions.create(model="never checked", prompt="the", max_tokens=9, temperature=0)
            assert whole.model == "never checked"
            assert whole.choices[0].finish_reason == "length"
            assert whole.choices[0].model_extra["matched_stop"] is None
            assert whole.usage is not None
            assert whole.usage.prompt_tokens_details is not None
            stream = await client.chat.completions.create(
                model="m", messages=MESSAGES, max_tokens=9, temperature=0, stream=True,
                stream_options={"include_usage": True},
            )  # fmt: skip
            chunks = [chunk async for chunk in stream]
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == 9
            with pytest.raises(openai.BadRequestError, match="top_k must be -1"):
                await client.chat.completions.create(model="m", messages=MESSAGES, extra_body={"top_k": 0})

    run(main)


def test_native_events_repeat_the_text_unless_the_server_was_told_otherwise():
    async def main():
        async with simulator_of() as simulator:
            cumulative = await events_of(simulator, max_new_tokens=12)
        async with simulator_of("--incremental-streaming-output") as simulator:
            incremental = await events_of(simulator, max_new_tokens=12)
        assert [len(event["output_ids"]) for event in cumulative] == list(range(1, 13))
        assert all(len(event["output_ids"]) == 1 for event in incremental)
        assert "".join(event["text"] for event in incremental) == cumulative[-1]["text"]
        assert cumulative[0]["meta_info"]["finish_reason"] is None
        assert cumulative[-1]["meta_info"]["finish_reason"] == {"type": "length", "length": 12}

    run(main)


def test_generate_refuses_what_it_does_not_know():
    async def main():
        async with simulator_of() as simulator:
            for body in (
                {"text": "a", "max_tokens": 3},
                {"text": "a", "sampling_params": {"max_tokens": 3}},
                {"text": "a", "input_ids": [5]},
                {"text": "a", "sampling_params": {"top_k": 0}},
            ):
                assert (await ask(simulator, "POST", "/generate", body)).status == 400

    run(main)


def test_a_seed_acts_only_with_deterministic_inference():
    async def main():
        params = {"max_new_tokens": 12, "temperature": 1.0, "sampling_seed": 7}
        async with simulator_of() as simulator:
            first, second = (await events_of(simulator, **params)), (await events_of(simulator, **params))
            assert first[-1]["text"] != second[-1]["text"]
        async with simulator_of("--enable-deterministic-inference") as simulator:
            first, second = (await events_of(simulator, **params)), (await events_of(simulator, **params))
            assert first[-1]["text"] == second[-1]["text"]
            del params["sampling_seed"]  # then it is 42
            first, second = (await events_of(simulator, **params)), (await events_of(simulator, **params))
            assert first[-1]["text"] == second[-1]["text"]

    run(main)


def test_a_full_queue_is_a_503_only_where_it_has_a_limit():
    async def main():
        flags = ("--max-running-requests", "1", "--max-queued-requests", "0")
        async with simulator_of(*flags, profile=SimulatorProfile(decode_step_s=0.5)) as simulator:
            client = HttpClient(simulator.url, clock=MonotonicClock())
            body = msgspec.json.encode({"text": "a", "stream": True})
            stream = await client.stream("POST", "/generate", body=body)
            refused = await ask(simulator, "POST", "/generate", {"text": "b"})
            assert refused.status == 503
            assert msgspec.json.decode(refused.body)["message"] == "The request queue is full."
            stream.abort()
            await client.aclose()

    run(main)


def test_the_key_leaves_health_readiness_and_metrics_open_and_metrics_want_their_flag():
    async def main():
        async with simulator_of("--api-key", "k", "--enable-metrics") as simulator:
            for path in ("/health", "/ready", "/metrics"):
                assert (await ask(simulator, "GET", path)).status == 200
            assert (await ask(simulator, "GET", "/server_info")).status == 401
        async with simulator_of() as simulator:
            assert (await ask(simulator, "GET", "/metrics")).status == 404

    run(main)


def test_it_is_not_ready_while_it_loads():
    async def main():
        async with simulator_of(profile=SimulatorProfile(load_time_s=60.0)) as simulator:
            answer = await ask(simulator, "GET", "/ready")
            assert (answer.status, answer.body) == (503, b"")

    run(main)


def test_token_counters_grow_when_a_request_ends():
    async def main():
        async with simulator_of("--enable-metrics") as simulator:
            await events_of(simulator, max_new_tokens=8)
            metrics = parse_metrics((await ask(simulator, "GET", "/metrics")).body.decode())
            assert metrics.value("sglang:generation_tokens_total", {"is_streaming": "true"}) == 8
            assert metrics.value("sglang:num_running_reqs", {"tp_rank": "0"}) == 0

    run(main)


def test_its_settings_can_be_read_back():
    async def main():
        async with simulator_of("--context-length", "1k", "--dtype", "bfloat16") as simulator:
            told = msgspec.json.decode((await ask(simulator, "GET", "/server_info")).body)
            assert (told["context_length"], told["dtype"], told["version"]) == (1000, "bfloat16", "0.5.23")
            counted = msgspec.json.decode((await ask(simulator, "POST", "/tokenize", {"prompt": "the"})).body)
            assert counted["tokens"][0] == tokens.BEGIN_ID
            assert counted["count"] == len(counted["tokens"])

    run(main)


def test_a_flag_that_it_does_not_have_stops_it():
    with pytest.raises(ConfigError, match="unrecognized arguments: --no-such-flag"):
        Simulator("sglang", ["--no-such-flag"])
