"""The simulated trtllm-serve and Triton, asked past our adapter: by the official client, and by plain HTTP."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import openai
import pytest
from ruamel.yaml import YAML

from enginebay.clock import MonotonicClock
from enginebay.errors import ConfigError
from enginebay.quantities import SIMULATED_HEADER, SIMULATED_METRIC
from enginebay.testing.simulators import INSTANT, Simulator
from enginebay.testing.simulators.wires.tensorrt_llm.bodies import ChatBody, CompletionBody
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpResponse
from enginebay.wire.prometheus_text import parse_metrics

T = TypeVar("T")
CONTRACTS = Path(__file__).parents[2] / "data" / "contracts"
CONTRACT: dict[str, Any] = YAML(typ="safe", pure=True).load((CONTRACTS / "tensorrt_llm.yaml").read_text())
STATS_FILE = "return_perf_metrics: true\nenable_iter_perf_stats: true\n"


@pytest.fixture
def stats_file(tmp_path: Path) -> tuple[str, str]:
    path = tmp_path / "options.yaml"
    path.write_text(STATS_FILE)
    return "--extra_llm_api_options", str(path)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def ask(simulator: Simulator, path: str, body: object = None) -> HttpResponse:
    client = HttpClient(simulator.url, clock=MonotonicClock())
    try:
        data = b"" if body is None else msgspec.json.encode(body)
        return await client.request("GET" if body is None else "POST", path, body=data)
    finally:
        await client.aclose()


def trtllm(*arguments: str, **fields: Any) -> Simulator:
    return Simulator("tensorrt_llm", arguments, port=0, **fields)


# ---------------------------------------------------------------- the official client


def test_the_official_client_completes_and_chats() -> None:
    async def main() -> None:
        async with trtllm("some/model") as simulator:
            client = openai.AsyncOpenAI(base_url=f"{simulator.url}/v1", api_key="EMPTY", max_retries=0)
            async with client:
                assert [model.id async for model in client.models.list()] == ["some/model"]
                whole = await client.completions.create(model="any", prompt="the quick", max_tokens=5, seed=1)
                assert whole.usage is not None
                assert whole.usage.completion_tokens == 5
                chat = await client.chat.completions.create(
                    model="any", messages=[{"role": "user", "content": "hello"}], max_tokens=5, seed=1
                )
                assert chat.choices[0].finish_reason == "length"
                assert chat.choices[0].message.content

    run(main())


def test_the_official_client_streams_to_the_usage() -> None:
    async def main() -> None:
        async with trtllm() as simulator:
            client = openai.AsyncOpenAI(base_url=f"{simulator.url}/v1", api_key="EMPTY", max_retries=0)
            async with client:
                stream = await client.chat.completions.create(
                    model="any",
                    messages=[{"role": "user", "content": "hello"}],
                    max_tokens=4,
                    stream=True,
                    stream_options={"include_usage": True},
                )
                events = [event async for event in stream]
                assert events[0].choices[0].delta.role == "assistant"
                assert not events[0].choices[0].delta.content
                assert events[-1].choices == []
                assert events[-1].usage is not None
                assert events[-1].usage.completion_tokens == 4
                whole = await client.completions.create(
                    model="any", prompt=[9, 300, 301], max_tokens=4, stream=True, temperature=0
                )
                assert len([event async for event in whole]) == 4

    run(main())


def test_the_official_client_gets_the_engines_refusals() -> None:
    async def main() -> None:
        async with trtllm() as simulator:
            client = openai.AsyncOpenAI(base_url=f"{simulator.url}/v1", api_key="EMPTY", max_retries=0)
            async with client:
                with pytest.raises(openai.BadRequestError, match="logprobs"):
                    await client.completions.create(model="any", prompt="a", max_tokens=2, logprobs=1)
                with pytest.raises(openai.BadRequestError, match="prompt_logprobs"):
                    await client.completions.create(
                        model="any", prompt="a", max_tokens=2, extra_body={"prompt_logprobs": 1}
                    )
                with pytest.raises(openai.BadRequestError, match="should not exceed max_seq_len"):
                    await client.completions.create(model="any", prompt="a", max_tokens=100_000)

    run(main())


# ---------------------------------------------------------------- requests and answers


def test_the_fields_that_are_taken_are_those_of_the_contract() -> None:
    endpoints = {endpoint["path"]: endpoint for endpoint in CONTRACT["http"]["endpoints"]}
    completion = {name for name, told in endpoints["/v1/completions"]["request"].items() if told is not None}
    assert set(CompletionBody.__struct_fields__) == completion
    chat = set(endpoints["/v1/chat/completions"]["request"]) - {"shared"}
    assert chat <= set(ChatBody.__struct_fields__)
    assert set(ChatBody.__struct_fields__) - chat <= completion


def test_the_whole_answer_has_the_keys_of_the_contract() -> None:
    async def main() -> None:
        async with trtllm() as simulator:
            answer = await ask(simulator, "/v1/completions", {"model": "m", "prompt": "a", "max_tokens": 2})
            body = msgspec.json.decode(answer.body)
            wanted = CONTRACT["http"]["endpoints"]
            [form] = [endpoint["response"] for endpoint in wanted if endpoint["path"] == "/v1/completions"]
            assert body.keys() == form.keys()
            assert body["choices"][0].keys() == form["choices"][0].keys()
            assert body["usage"].keys() == form["usage"].keys()
            assert answer.headers[SIMULATED_HEADER] == "1"

    run(main())


def test_a_streamed_completion_writes_nulls_out_and_a_chat_leaves_them_out() -> None:
    async def main() -> None:
        async with trtllm() as simulator:
            plain = {"model": "m", "max_tokens": 1, "stream": True}
            completion = await ask(simulator, "/v1/completions", {**plain, "prompt": "a"})
            assert b'"token_ids":null' in completion.body
            messages = [{"role": "user", "content": "a"}]
            chat = await ask(simulator, "/v1/chat/completions", {**plain, "messages": messages})
            assert b"null" not in chat.body
            assert re.match(rb"data: \{.*?\} \n\n", chat.body)  # a blank before the end of the first line
            assert chat.body.endswith(b"data: [DONE]\n\n")
            assert b'"usage"' not in chat.body

    run(main())


def test_empty_stream_options_ask_for_usage_and_need_a_stream() -> None:
    async def main() -> None:
        async with trtllm() as simulator:
            body = {"model": "m", "prompt": "a", "max_tokens": 1, "stream_options": {}}
            assert (await ask(simulator, "/v1/completions", body)).status == 400
            streamed = await ask(simulator, "/v1/completions", {**body, "stream": True})
            assert b'"usage"' in streamed.body

    run(main())


def test_without_detokenizing_there_are_ids_and_no_text() -> None:
    async def main() -> None:
        async with trtllm() as simulator:
            body = {"model": "m", "prompt": "a", "max_tokens": 3, "detokenize": False}
            [choice] = msgspec.json.decode((await ask(simulator, "/v1/completions", body)).body)["choices"]
            assert choice["text"] == ""
            assert len(choice["token_ids"]) == 3

    run(main())


# ---------------------------------------------------------------- launch


def test_flags_and_file_shape_the_engine_and_the_file_wins(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("max_batch_size: 5\nkv_cache_config:\n  free_gpu_memory_fraction: 0.45\n  tokens_per_block: 64\n")
    flags = ("--max_batch_size", "9", "--max_seq_len", "777", "--extra_llm_api_options", str(path))
    profile = trtllm("/models/llama-8b", *flags).launch.profile
    assert (profile.max_num_seqs, profile.max_model_len, profile.block_size) == (5, 777, 64)
    assert profile.num_kv_tokens == pytest.approx(INSTANT.num_kv_tokens / 2, abs=64)
    assert trtllm("/models/llama-8b").model == "llama-8b"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--max-batch-size", "3"), "No such option: --max-batch-size"),
        (("--tool_parser", "x"), "No such option: --tool_parser"),
        (("--log_level", "debug"), "is not one of"),
        (("--port",), "requires an argument"),
    ],
)
def test_a_flag_is_refused_in_the_words_of_its_parser(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        trtllm(*arguments)


def test_an_unknown_key_of_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("max_batchsize: 5\n")
    with pytest.raises(ConfigError, match="max_batchsize"):
        trtllm("--extra_llm_api_options", str(path))


def test_the_flags_are_those_of_the_contract() -> None:
    launch = CONTRACT["launch"]
    told = set(re.findall(r"--[a-z][a-z_]+", str([launch["settings"], launch["other_useful"], launch["options_file"]])))
    own = {flag.name for flag in trtllm().spec.flags.flags} - {"--simulated_release"}
    assert own <= told


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("release", "present", "absent"),
    [
        ("1.2", "request_success_total", "trtllm_request_success_total"),
        ("1.3", "trtllm_kv_cache_utilization", "trtllm_prompt_tokens_total"),
        ("1.4", "trtllm_num_requests_running", "request_success_total"),
    ],
)
def test_each_release_has_its_generation_of_names(
    release: str, present: str, absent: str, stats_file: tuple[str, str]
) -> None:
    async def main() -> None:
        async with trtllm("--simulated_release", release, *stats_file) as simulator:
            await ask(simulator, "/v1/completions", {"model": "m", "prompt": "a", "max_tokens": 3})
            metrics = parse_metrics((await ask(simulator, "/prometheus/metrics")).body.decode())
            assert present in metrics
            assert absent not in metrics
            assert metrics.value(SIMULATED_METRIC) == 1

    run(main())


def test_every_series_is_one_of_the_contract_with_its_buckets(stats_file: tuple[str, str]) -> None:
    async def main() -> None:
        async with trtllm("--simulated_release", "1.4", *stats_file) as simulator:
            await ask(simulator, "/v1/completions", {"model": "m", "prompt": "a", "max_tokens": 3})
            metrics = parse_metrics((await ask(simulator, "/prometheus/metrics")).body.decode())
            series = {entry["name"]: entry for entry in CONTRACT["metrics"]["series"]}
            families = CONTRACT["metrics"]["bucket_families"]
            for name in metrics.samples:
                base = re.sub(r"_(bucket|count|sum)$", "", name)
                assert base in series or name == SIMULATED_METRIC, name
                if name.endswith("_bucket"):
                    bounds = [float(sample.labels["le"]) for sample in metrics.samples[name]]
                    assert bounds[:-1] == families[series[base]["buckets"]]

    run(main())


def test_iteration_statistics_have_the_fields_of_the_contract_and_are_given_once(stats_file: tuple[str, str]) -> None:
    async def main() -> None:
        async with trtllm(*stats_file) as simulator:
            await ask(simulator, "/v1/completions", {"model": "m", "prompt": "a", "max_tokens": 3})
            [entry, *_] = msgspec.json.decode((await ask(simulator, "/metrics")).body)
            told = CONTRACT["metrics"]["json_stats"]
            assert set(entry) == set(told["entry_fields"])
            assert set(entry["kvCacheStats"]) == set(told["kvCacheStats"])
            assert set(entry["inflightBatchingStats"]) == set(told["inflightBatchingStats"])
            assert msgspec.json.decode((await ask(simulator, "/metrics")).body) == []

    run(main())


def test_without_the_options_there_are_no_metrics() -> None:
    async def main() -> None:
        async with trtllm() as simulator:
            await ask(simulator, "/v1/completions", {"model": "m", "prompt": "a", "max_tokens": 3})
            assert (await ask(simulator, "/prometheus/metrics")).status == 404
            assert (await ask(simulator, "/metrics")).body == b"[]"

    run(main())


# ---------------------------------------------------------------- Triton


def triton(*arguments: str, **fields: Any) -> Simulator:
    return Simulator("triton", arguments, port=0, **fields)


def test_triton_answers_whole_and_streamed_with_the_counts_that_were_asked_for() -> None:
    async def main() -> None:
        async with triton("--model-repository", "/models") as simulator:
            body = {"text_input": "the quick", "max_tokens": 3, "top_k": 1, "return_num_output_tokens": True}
            whole = msgspec.json.decode((await ask(simulator, "/v2/models/ensemble/generate", body)).body)
            assert whole["num_output_tokens"] == 3
            assert "num_input_tokens" not in whole
            streamed = await ask(simulator, "/v2/models/ensemble/generate_stream", {**body, "stream": True})
            events = [msgspec.json.decode(line[6:]) for line in streamed.body.split(b"\n\n") if line]
            assert "".join(event["text_output"] for event in events) == whole["text_output"]
            assert [event["num_output_tokens"] for event in events] == [1, 1, 1]
            assert b"[DONE]" not in streamed.body
            assert not {"finish_reason", "token_ids", "usage"} & events[-1].keys()

    run(main())


def test_triton_refuses_in_its_own_shape() -> None:
    async def main() -> None:
        async with triton() as simulator:
            body = {"text_input": "a", "max_tokens": 3}
            for path, asked, status in (
                ("/v2/models/nobody/generate", body, 404),
                ("/v2/models/ensemble/generate", {"text_input": "a"}, 400),
                ("/v2/models/ensemble/generate", {**body, "max_tokens": 1_000_000}, 400),
            ):
                answer = await ask(simulator, path, asked)
                assert answer.status == status
                assert msgspec.json.decode(answer.body).keys() == {"error"}

    run(main())


def test_triton_lives_and_is_not_ready_while_it_loads() -> None:
    async def main() -> None:
        profile = INSTANT.__class__(pace="instant", load_time_s=60.0)
        async with triton(profile=profile) as simulator:
            assert (await ask(simulator, "/v2/health/live")).status == 200
            assert (await ask(simulator, "/v2/health/ready")).status == 400
            body = {"text_input": "a", "max_tokens": 3}
            assert (await ask(simulator, "/v2/models/ensemble/generate", body)).status == 503

    run(main())


def test_triton_publishes_the_series_of_the_contract() -> None:
    async def main() -> None:
        async with triton() as simulator:
            metrics = parse_metrics((await ask(simulator, "/metrics")).body.decode())
            series = {entry["name"]: entry for entry in CONTRACT["triton"]["metrics"]["series"]}
            for name, samples in metrics.samples.items():
                if name != SIMULATED_METRIC:
                    [label] = series[name]["labels"]
                    allowed = series[name]["label_values"][label]
                    assert {sample.labels[label] for sample in samples} <= set(allowed)

    run(main())
