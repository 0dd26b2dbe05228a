"""The simulated llama-server, asked by the official client and by hand."""

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
from enginebay.wire.sse import SseParser

MESSAGES = [{"role": "user", "content": "Where is the brown fox?"}]


def run(main):
    asyncio.run(asyncio.wait_for(main(), 30))


def simulator_of(*arguments: str, **options) -> Simulator:
    return Simulator("llama_cpp", arguments, port=0, **options)


async def ask(simulator: Simulator, method, path: str, body: object = None):
    client = HttpClient(simulator.url, clock=MonotonicClock())
    try:
        return await client.request(method, path, body=_encoded(body))
    finally:
        await client.aclose()


def _encoded(body: object) -> bytes:
    if body is None or isinstance(body, bytes):
        return body or b""
    return msgspec.json.encode(body)


async def events_of(simulator: Simulator, body: dict[str, object]) -> list[dict[str, object]]:
    answer = await ask(simulator, "POST", "/completion", {"stream": True, **body})
    return [msgspec.json.decode(event.data) for event in SseParser().feed(answer.body)]


def test_the_official_client_reads_a_streamed_chat_with_its_usage_and_log_probabilities():
    async def main():
        async with simulator_of("--alias", "small") as simulator, openai.AsyncOpenAI(
            base_url=f"{simulator.url}/v1", api_key="k", max_retries=0
        ) as client:  # fmt: skip
            stream = await client.chat.completions.create(
                model="small", messages=MESSAGES, max_tokens=12, stream=True, temperature=0, logprobs=True,
                top_logprobs=2, stream_options={"include_usage": True}, extra_body={"timings_per_token": True},
            )  # fmt: skip
            chunks = [chunk async for chunk in stream]
            assert chunks[0].choices[0].delta.role == "assistant"
            assert chunks[-2].choices[0].finish_reason == "length"
            assert not chunks[-2].choices[0].delta.content
            usage = chunks[-1].usage
            assert usage is not None
            assert usage.completion_tokens == 12
            counted = [
                chunk.model_extra["timings"]["predicted_n"] for chunk in chunks if "timings" in chunk.model_extra
            ]
            assert counted == list(range(1, 13))
            whole = await client.chat.completions.create(
                model="anything", messages=MESSAGES, max_tokens=12, temperature=0
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert whole.choices[0].message.content == text
            assert [model.id async for model in client.models.list()] == ["small"]

    run(main)


def test_a_native_stream_ends_with_stop_and_no_done():
    async def main():
        async with simulator_of() as simulator:
            body = {"prompt": "the quick", "n_predict": 40, "temperature": 0, "return_tokens": True}
            *partials, last = await events_of(simulator, body)
            assert all(event["stop"] is False for event in partials)
            assert (last["stop"], last["stop_type"], last["content"]) == (True, "limit", "")
            assert last["tokens_predicted"] == 40
            sent = [token for event in partials for token in event["tokens"]]
            assert len(sent) < 40  # the first halves of characters are held back, and their ids lost
            answer = await ask(simulator, "POST", "/completion", body)
            whole = msgspec.json.decode(answer.body)
            assert len(whole["tokens"]) == 40
            assert whole["content"] == "".join(event["content"] for event in partials)
            assert answer.headers[SIMULATED_HEADER] == "1"

    run(main)


def test_a_stop_word_is_cut_off_and_named():
    async def main():
        async with simulator_of() as simulator:
            *_, first = await events_of(simulator, {"prompt": "the", "n_predict": 9, "temperature": 0})
            whole = msgspec.json.decode(
                (await ask(simulator, "POST", "/completion", {"prompt": "the", "n_predict": 9, "temperature": 0})).body
            )
            word = whole["content"].split()[2]
            stopped = {"prompt": "the", "n_predict": 9, "temperature": 0, "stop": [word]}
            cut = msgspec.json.decode((await ask(simulator, "POST", "/completion", stopped)).body)
            assert (cut["stop_type"], cut["stopping_word"]) == ("word", word)
            assert word not in cut["content"]
            assert first["stop_type"] == "limit"

    run(main)


def test_every_route_says_503_while_it_loads():
    async def main():
        async with simulator_of(profile=SimulatorProfile(load_time_s=60.0)) as simulator:
            for method, path in (("GET", "/health"), ("GET", "/props"), ("GET", "/nowhere"), ("POST", "/completion")):
                answer = await ask(simulator, method, path, {} if method == "POST" else None)
                assert answer.status == 503
                detail = {"message": "Loading model", "type": "unavailable_error", "code": 503}
                assert msgspec.json.decode(answer.body) == {"error": detail}

    run(main)


def test_a_prompt_beyond_the_share_of_one_slot_is_refused_with_both_numbers():
    async def main():
        async with simulator_of("--ctx-size", "900", "--parallel", "4") as simulator:
            answer = await ask(simulator, "POST", "/completion", {"prompt": [5] * 260, "n_predict": 1})
            assert answer.status == 400
            error = msgspec.json.decode(answer.body)["error"]
            assert (error["type"], error["n_prompt_tokens"], error["n_ctx"]) == ("exceed_context_size_error", 260, 256)

    run(main)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"prompt": []}', 400, '"prompt" must not be empty'),
        (b'{"prompt": [-1]}', 400, "invalid tokens"),
        (b'{"prompt": [[5], [6]]}', 501, "simulated: one prompt"),
        (b'{"prompt": 5}', 400, "prompt"),
        (b'{"n_predict": 1}', 400, "prompt"),
        (b"[1", 500, "parse error"),
        (b'{"prompt": ' + b"[" * 9999, 500, "parse error"),
    ],
)
def test_prompts_and_bodies_that_are_none_are_refused_as_the_server_does_and_it_lives_on(body, status, message):
    async def main():
        async with simulator_of() as simulator:
            answer = await ask(simulator, "POST", "/completion", body)
            error = msgspec.json.decode(answer.body)["error"]
            assert (answer.status, error["code"]) == (status, status)
            assert message in error["message"]
            again = await ask(simulator, "POST", "/completion", {"prompt": [[5, 6]], "n_predict": 1})
            assert msgspec.json.decode(again.body)["stop_type"] == "limit"

    run(main)


def test_a_prompt_without_tokens_is_answered_by_nothing_and_no_reason():
    async def main():
        async with simulator_of() as simulator:
            answer = await ask(simulator, "POST", "/completion", {"prompt": [[]], "n_predict": 3})
            said = msgspec.json.decode(answer.body)
            assert (said["stop"], said["stop_type"], said["tokens_predicted"]) == (True, "none", 0)
            streamed = await ask(simulator, "POST", "/completion", {"prompt": [[]], "stream": True})
            assert b'"stop_type":"none"' in streamed.body

    run(main)


def test_texts_get_the_begin_token_and_tokenize_adds_none_by_default():
    async def main():
        async with simulator_of() as simulator:
            bare = msgspec.json.decode((await ask(simulator, "POST", "/tokenize", {"content": "the fox"})).body)
            assert bare["tokens"][0] != tokens.BEGIN_ID
            body = {"prompt": "the fox", "n_predict": 1}
            answer = msgspec.json.decode((await ask(simulator, "POST", "/completion", body)).body)
            assert answer["tokens_evaluated"] == len(bare["tokens"]) + 1

    run(main)


@pytest.mark.parametrize(
    ("fields", "is_certain"),
    [
        ({"top_k": 1}, True), ({"top_p": 0.0001}, True), ({"min_p": 1.0}, True), ({}, False),
        ({"top_k": 1, "samplers": ["top_p", "temperature"]}, False),
        ({"top_k": 1, "samplers": ["top_k", "temperature"]}, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/completion", "/v1/chat/completions"])
def test_filters_leave_the_tokens_that_may_be_drawn(path: str, fields: dict[str, object], is_certain: bool):
    async def main():
        async with simulator_of() as simulator:
            body = {"prompt": "the fox", "messages": MESSAGES, "max_tokens": 8, "temperature": 1.0, **fields}
            answers = [await ask(simulator, "POST", path, {**body, "seed": seed}) for seed in range(12)]
            assert (len({_text_of(answer.body) for answer in answers}) == 1) is is_certain

    run(main)


def _text_of(body: bytes) -> str:
    answer = msgspec.json.decode(body)
    return answer["content"] if "content" in answer else answer["choices"][0]["message"]["content"]


def test_without_a_word_on_it_the_engines_own_filters_hold():
    async def drawn(simulator: Simulator, fields: dict[str, object]) -> set[int]:
        body = {"prompt": "the fox", "n_predict": 1, "return_tokens": True, **fields}
        answers = [await ask(simulator, "POST", "/completion", {**body, "seed": seed}) for seed in range(200)]
        return {msgspec.json.decode(answer.body)["tokens"][0] for answer in answers}

    async def main():
        async with simulator_of() as simulator:
            assert await drawn(simulator, {}) < await drawn(simulator, {"samplers": ["temperature"]})

    run(main)


@pytest.mark.parametrize("path", ["/completion", "/v1/chat/completions"])
@pytest.mark.parametrize("bias", [[[7, 100]], {"7": 100}, [[" fox", 100]], [[" fox", False]]])
def test_biases_come_as_pairs_or_as_an_object(path: str, bias: object):
    async def main():
        async with simulator_of() as simulator:
            [fox] = tokens.encode(" fox")
            sampling = {"temperature": 0, "max_tokens": 1, "n_probs": 1, "logprobs": True}
            body = {"prompt": "the", "messages": MESSAGES, "return_tokens": True, **sampling, "logit_bias": bias}
            text = _text_of((await ask(simulator, "POST", path, body)).body)
            if bias == [[" fox", False]]:
                assert text != tokens.token_text(fox)
            else:
                assert text == tokens.token_text(fox if " fox" in str(bias) else 7)

    run(main)


def test_the_key_guards_everything_but_health_and_metrics_want_their_flag():
    async def main():
        async with simulator_of("--api-key", "k") as simulator:
            assert (await ask(simulator, "GET", "/health")).status == 200
            for path in ("/metrics", "/props", "/slots", "/v1/models"):
                answer = await ask(simulator, "GET", path)
                assert answer.status == 401
                assert msgspec.json.decode(answer.body)["error"]["type"] == "authentication_error"
        async with simulator_of() as simulator:
            assert (await ask(simulator, "GET", "/metrics")).status == 501

    run(main)


def test_metrics_have_six_digits_and_no_labels():
    async def main():
        async with simulator_of("--metrics") as simulator:
            simulator.engine.metrics.num_output_tokens = 1_284_317
            text = (await ask(simulator, "GET", "/metrics")).body.decode()
            assert "\nllamacpp:tokens_predicted_total 1.28432e+06\n" in text

    run(main)


@pytest.mark.parametrize(
    ("flag", "words"),
    [("--no-such-flag", "invalid argument: --no-such-flag"), ("--draft-max", "the argument has been removed")],
)
def test_a_flag_that_it_does_not_have_stops_it(flag: str, words: str):
    with pytest.raises(ConfigError, match=words):
        Simulator("llama_cpp", [flag, "3"])
