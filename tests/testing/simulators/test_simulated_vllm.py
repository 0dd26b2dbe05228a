from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from threading import Event, Thread

import msgspec
import openai
import pytest

from enginebay.clock import MonotonicClock
from enginebay.errors import ConfigError
from enginebay.quantities import SIMULATED_HEADER
from enginebay.testing.simulators import PACED, Fault, Simulator, tokens
from enginebay.wire.http_client import HttpClient
from enginebay.wire.prometheus_text import parse_metrics

MESSAGES = [{"role": "user", "content": "Where is the brown fox?"}]


def run(main):
    asyncio.run(asyncio.wait_for(main(), 30))


@asynccontextmanager
async def official(*arguments: str, api_key: str = "k", **options):
    async with Simulator("vllm", arguments, **options) as simulator, openai.AsyncOpenAI(
        base_url=f"{simulator.url}/v1", api_key=api_key, max_retries=0
    ) as client:  # fmt: skip
        yield simulator, client


@contextmanager
def in_a_thread():
    """A simulator with a loop of its own, for clients that block."""
    found: list[Simulator] = []
    started, ending = Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with Simulator("vllm", ["some/model"]) as simulator:
            found.append(simulator)
            started.set()
            await ending.wait()

    thread = Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait(10)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(10)
        loop.close()


# ---------------------------------------------------------------- completions


def test_a_completion_has_exact_usage_and_the_prompt_a_begin_token():
    async def main():
        async with official("some/model") as (_, client):
            answer = await client.completions.create(model="some/model", prompt="the quick fox", max_tokens=7)
            assert answer.id.startswith("cmpl-")
            assert answer.usage is not None
            assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 7)
            assert answer.choices[0].finish_reason == "length"
            default = await client.completions.create(model="some/model", prompt="the quick fox")
            assert default.usage is not None
            assert default.usage.completion_tokens == 16

    run(main)


def test_a_stream_gives_the_same_text_and_token_ids_as_the_whole_answer():
    async def main():
        async with official("m") as (_, client):
            asked = {"model": "m", "prompt": [1, 400, 401], "max_tokens": 60, "temperature": 0}
            extra = {"return_token_ids": True}
            whole = await client.completions.create(**asked, extra_body=extra)
            stream = await client.completions.create(
                **asked, stream=True, stream_options={"include_usage": True}, extra_body=extra
            )
            events = [event async for event in stream]
            choices = [event.choices[0] for event in events if event.choices]
            assert "".join(choice.text for choice in choices) == whole.choices[0].text
            ids = [token_id for choice in choices for token_id in choice.token_ids]
            assert ids == whole.choices[0].token_ids
            assert choices[0].prompt_token_ids == whole.choices[0].prompt_token_ids == [1, 400, 401]
            assert events[-1].choices == []
            assert events[-1].usage == whole.usage
            assert [choice.finish_reason for choice in choices[:-1]] == [None] * 59
            assert choices[-1].finish_reason == "length"

    run(main)


def test_usage_comes_in_a_stream_only_when_asked_for_or_forced():
    async def main():
        async with official("m") as (_, client):
            stream = await client.completions.create(model="m", prompt="a", stream=True)
            assert [event.usage async for event in stream] == [None] * 16
        async with official("m", "--enable-force-include-usage") as (_, client):
            stream = await client.completions.create(model="m", prompt="a", stream=True)
            counts = [event.usage.completion_tokens async for event in stream]
            assert counts == [*range(1, 17), 16]

    run(main)


def test_stop_strings_and_stop_tokens_are_told_by_stop_reason():
    async def main():
        async with official("m") as (_, client):
            asked = {"model": "m", "prompt": "the fox", "max_tokens": 20, "temperature": 0}
            whole = await client.completions.create(**asked, extra_body={"return_token_ids": True})
            text, ids = whole.choices[0].text, whole.choices[0].token_ids
            word = text.split()[3]
            stopped = (await client.completions.create(**asked, stop=[word])).choices[0]
            assert stopped.text == text.partition(word)[0]
            assert (stopped.finish_reason, stopped.stop_reason) == ("stop", word)
            by_id = (await client.completions.create(**asked, extra_body={"stop_token_ids": [ids[4]]})).choices[0]
            assert (by_id.finish_reason, by_id.stop_reason) == ("stop", ids[4])

    run(main)


def test_logprobs_name_the_chosen_token_first_and_may_name_ids():
    async def main():
        async with official("m") as (_, client):
            asked = {"model": "m", "prompt": "the fox", "max_tokens": 5, "temperature": 0, "logprobs": 3}
            logprobs = (await client.completions.create(**asked)).choices[0].logprobs
            assert [len(tops) for tops in logprobs.top_logprobs] == [3] * 5
            for token, value, tops in zip(
                logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
            ):  # fmt: skip
                assert tops[token] == value == max(tops.values())
            extra = {"return_tokens_as_token_ids": True, "return_token_ids": True}
            choice = (await client.completions.create(**asked, extra_body=extra)).choices[0]
            assert choice.logprobs.tokens == [f"token_id:{token_id}" for token_id in choice.token_ids]

    run(main)


def test_several_prompts_and_choices_are_numbered_in_their_order():
    async def main():
        async with official("m") as (_, client):
            answer = await client.completions.create(
                model="m", prompt=["the fox", "the dog"], n=2, temperature=1, seed=3, max_tokens=8
            )
            assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
            assert len({choice.text for choice in answer.choices}) == 4
            assert answer.usage.completion_tokens == 32

    run(main)


def test_an_event_may_carry_several_tokens_and_the_first_one_alone():
    async def main():
        async with official("m", "--stream-interval", "4") as (_, client):
            extra = {"return_token_ids": True}
            stream = await client.completions.create(
                model="m", prompt="a", max_tokens=10, stream=True, extra_body=extra
            )
            sizes = [len(event.choices[0].token_ids) async for event in stream]
            assert sizes == [1, 4, 4, 1]

    run(main)


# ---------------------------------------------------------------- chat


def test_the_first_event_of_a_chat_is_the_role_and_no_token():
    async def main():
        async with official("m") as (_, client):
            stream = await client.chat.completions.create(
                model="m", messages=MESSAGES, max_tokens=5, stream=True, extra_body={"return_token_ids": True}
            )
            events = [event async for event in stream]
            assert (events[0].choices[0].delta.role, events[0].choices[0].delta.content) == ("assistant", "")
            assert len(events[0].prompt_token_ids) > 5
            assert len(events) == 6
            assert events[-1].choices[0].finish_reason == "length"

    run(main)


def test_a_chat_without_a_limit_may_go_to_the_end_of_the_context():
    async def main():
        async with official("m", "--max-model-len", "60") as (_, client):
            extra = {"ignore_eos": True}
            answer = await client.chat.completions.create(model="m", messages=MESSAGES, extra_body=extra)
            assert answer.usage is not None
            assert answer.usage.total_tokens == 60

    run(main)


def test_the_logprobs_of_a_chat_have_bytes_that_make_up_the_text():
    async def main():
        async with official("m") as (_, client):
            answer = await client.chat.completions.create(
                model="m", messages=MESSAGES, max_tokens=120, logprobs=True, top_logprobs=2, temperature=0
            )
            content = answer.choices[0].logprobs.content
            made = b"".join(bytes(token.bytes) for token in content).decode("utf-8", "ignore")
            assert made == answer.choices[0].message.content
            assert all(len(token.top_logprobs) == 2 for token in content)

    run(main)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"temperature": 2.5}, 400, "temperature must be in"),
        ({"top_p": 0.0}, 400, "top_p must be in"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "at most 4"),
        ({"temperature": 0, "n": 2}, 400, "greedy"),
        ({"max_tokens": 5000}, 400, "maximum context length is 4096 tokens"),
        ({"prompt": [5] * 4096}, 400, "has 4096 input tokens"),
        ({"stream_options": {"include_usage": True}}, 400, "Stream options"),
        ({"model": "other"}, 404, "`other` does not exist"),
        ({"logprobs": 21}, 400, "max allowed: 20"),
        ({"echo": True}, 501, "the simulator has no echo"),
        ({"extra_body": {"max_tokens": "many"}}, 400, "Expected"),
    ],
)
def test_requests_are_refused_as_vllm_refuses_them(fields, status, words):
    async def main():
        async with official("m") as (simulator, client):
            with pytest.raises(openai.APIStatusError) as caught:
                await client.completions.create(**{"model": "m", "prompt": "a", **fields})
            assert caught.value.status_code == status
            assert words in caught.value.message
            assert set(caught.value.body) == {"message", "type", "param", "code"}
            assert simulator.engine.num_unfinished == 0

    run(main)


def test_with_a_queue_limit_one_request_more_is_a_503():
    async def main():
        async with official("m", "--max-num-queued-reqs", "2", profile=PACED) as (simulator, client):
            asking = [
                asyncio.create_task(client.completions.create(model="m", prompt="a", max_tokens=10)) for _ in range(2)
            ]
            await simulator.until(lambda it: it.engine.num_unfinished == 2)
            with pytest.raises(openai.InternalServerError) as caught:
                await client.completions.create(model="m", prompt="a")
            assert caught.value.status_code == 503
            await asyncio.gather(*asking)
            metrics = await metrics_of(simulator)
            assert metrics.value("vllm:admission_rejections_total", {"reason": "max_num_queued_reqs"}) == 1

    run(main)


def test_a_limit_of_queued_tokens_counts_the_prompts_that_wait():
    async def main():
        flags = ("m", "--max-num-queued-tokens", "30", "--max-num-seqs", "1")
        async with official(*flags, profile=PACED) as (simulator, client):
            asked = {"model": "m", "prompt": [300] * 20, "max_tokens": 10}
            running = asyncio.create_task(client.completions.create(**asked))
            await simulator.until(lambda it: it.engine.metrics.num_output_tokens > 0)
            waiting = asyncio.create_task(client.completions.create(**asked))
            await simulator.until(lambda it: it.engine.num_waiting == 1)
            with pytest.raises(openai.InternalServerError, match="queued"):
                await client.completions.create(**asked)
            await asyncio.gather(running, waiting)
            metrics = await metrics_of(simulator)
            assert metrics.value("vllm:admission_rejections_total", {"reason": "max_num_queued_tokens"}) == 1

    run(main)


def test_the_overload_fault_is_vllms_503():
    async def main():
        async with official("m") as (simulator, client):
            simulator.faults.inject(Fault.OVERLOAD)
            with pytest.raises(openai.InternalServerError) as caught:
                await client.completions.create(model="m", prompt="a")
            assert caught.value.status_code == 503
            assert caught.value.body["type"] == "Service Unavailable"

    run(main)


def test_a_key_guards_the_api_alone_and_may_come_from_the_environment():
    async def main():
        environment = {"VLLM_API_KEY": "secret"}
        async with official("m", environment=environment, api_key="wrong") as (simulator, client):
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
            assert (await client.with_options(api_key="secret").models.list()).data[0].id == "m"
            http = HttpClient(simulator.url, clock=MonotonicClock())
            assert (await http.request("GET", "/health")).status == 200
            await http.aclose()

    run(main)


def test_an_unknown_flag_or_a_cache_too_small_does_not_start():
    with pytest.raises(ConfigError, match="unrecognized arguments: --num-seqs"):
        Simulator("vllm", ["m", "--num-seqs", "3"])
    with pytest.raises(ConfigError, match="the KV cache holds 64 tokens"):
        Simulator("vllm", ["m", "--num-gpu-blocks-override", "4"])


# ---------------------------------------------------------------- what it tells of itself


def test_flags_show_in_the_models_and_metrics_and_change_the_engine():
    async def main():
        flags = ["org/m", "--served-model-name", "short", "other", "--max-model-len", "1k", "--max-num-seqs", "3",
                 "--block-size", "32", "--gpu-memory-utilization", "0.46", "--kv-cache-dtype", "fp8"]  # fmt: skip
        async with official(*flags, profile=PACED) as (simulator, client):
            cards = (await client.models.list()).data
            assert [(card.id, card.root, card.max_model_len) for card in cards] == [
                ("short", "org/m", 1000), ("other", "org/m", 1000)
            ]  # fmt: skip
            told = next((await metrics_of(simulator)).matching("vllm:cache_config_info")).labels
            assert (told["block_size"], told["num_gpu_blocks"], told["cache_dtype"]) == ("32", "4096", "fp8")
            asking = [
                asyncio.create_task(client.completions.create(model="other", prompt="a", max_tokens=8))
                for _ in range(5)
            ]
            await simulator.until(lambda it: (it.engine.num_running, it.engine.num_waiting) == (3, 2))
            metrics = await metrics_of(simulator)
            assert metrics.value("vllm:num_requests_running") == 3
            assert metrics.value("vllm:num_requests_waiting") == 2
            await asyncio.gather(*asking)

    run(main)


def test_metrics_count_what_was_done():
    async def main():
        async with official("m") as (simulator, client):
            for _ in range(3):
                await client.completions.create(model="m", prompt="the fox " * 30, max_tokens=9, temperature=0)
            metrics = await metrics_of(simulator)
            assert metrics.by_label("vllm:request_success_total", "finished_reason")["length"] == 3
            assert metrics.value("vllm:generation_tokens_total") == 27
            assert metrics.value("vllm:prompt_tokens_total") == metrics.value("vllm:prefix_cache_queries_total")
            assert metrics.value("vllm:prefix_cache_hits_total") > 0
            for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_generation_tokens"):
                assert metrics.histogram(f"vllm:{name}").count == 3
            assert metrics.histogram("vllm:inter_token_latency_seconds").count == 24
            assert metrics.value("enginebay_simulated") == 1

    run(main)


def test_tokenize_and_detokenize_undo_each_other():
    async def main():
        async with Simulator("vllm") as simulator:
            http = HttpClient(simulator.url, clock=MonotonicClock())
            json = {"content-type": "application/json"}
            answer = await http.request("POST", "/tokenize", body=b'{"prompt": "na\xc3\xafve fox"}', headers=json)
            ids = decoded(answer.body)["tokens"]
            assert ids[0] == tokens.BEGIN_ID
            body = b'{"tokens": %s}' % str(ids[1:]).encode()
            answer = await http.request("POST", "/detokenize", body=body, headers=json)
            assert decoded(answer.body) == {"prompt": "naïve fox"}
            await http.aclose()

    run(main)


def test_every_answer_is_labelled_as_simulated():
    async def main():
        async with Simulator("vllm") as simulator:
            http = HttpClient(simulator.url, clock=MonotonicClock())
            for method, path in [
                ("GET", "/health"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/nowhere"),
                ("POST", "/v1/completions"),
            ]:  # fmt: skip
                assert (await http.request(method, path)).headers[SIMULATED_HEADER] == "1"
            await http.aclose()

    run(main)


def test_the_blocking_official_client_is_served_too():
    with in_a_thread() as simulator, openai.OpenAI(base_url=f"{simulator.url}/v1", api_key="k") as client:
        answer = client.completions.create(model="some/model", prompt="the fox", max_tokens=4)
        assert answer.usage.completion_tokens == 4
        stream = client.chat.completions.create(model="some/model", messages=MESSAGES, max_tokens=4, stream=True)
        assert len([event for event in stream if event.choices[0].delta.content]) >= 3
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt="the fox")


async def metrics_of(simulator: Simulator):
    http = HttpClient(simulator.url, clock=MonotonicClock())
    try:
        return parse_metrics((await http.request("GET", "/metrics")).body.decode())
    finally:
        await http.aclose()


def decoded(body: bytes):
    return msgspec.json.decode(body)
