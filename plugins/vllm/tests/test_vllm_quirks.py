"""Every quirk of the contract has a test that handles it or shows it harmless."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from ruamel.yaml import YAML
from test_vllm_api import SERVER, api, body_of, error, identified, info, request
from test_vllm_metrics import CONTRACT, SAMPLES, sample
from test_vllm_settings import context

from enginebay import get_backend
from enginebay.errors import BackendOverloaded, InvalidRequest
from enginebay.plugins import compile_plan
from enginebay.testing.simulators import Simulator
from enginebay.testing.told_http import health_states
from enginebay.types import Chat, FinishReason, GenerationChunk, HealthState, Message, SamplingParams, Text, TokenIds
from enginebay.wire.openai_decode import FINISH_REASONS
from enginebay_vllm.command import NO_SAMPLING_DEFAULTS
from enginebay_vllm.metrics import METRICS
from enginebay_vllm.plugin import enginebay_backend

CHAT = Chat((Message("user", "hi"),))


def decoded(*events: object, chat: bool = False) -> list[GenerationChunk]:
    wanted = request(prompt=CHAT if chat else Text("hi"), logprobs=None)
    decoder = api().call(wanted, info()).decoder
    data = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    return list(decoder.feed(data, 1.0))


def completion(text: str, **choice: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": text, **choice}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}


def test_default_max_tokens() -> None:
    assert body_of(request(sampling=SamplingParams(max_tokens=300)))["max_tokens"] == 300
    assert body_of(request(prompt=CHAT, sampling=SamplingParams(max_tokens=300)))["max_tokens"] == 300


def test_generation_config_defaults() -> None:
    assert " ".join(NO_SAMPLING_DEFAULTS) in " ".join(compile_plan(enginebay_backend(), context()).command)
    assert compile_plan(enginebay_backend(), context(mode="in_process")).keywords["generation_config"] == "vllm"
    assert body_of(request())["temperature"] == 1.0


def test_temperature_cap() -> None:
    backend = get_backend("vllm", mode="external", url="http://127.0.0.1:9")
    assert backend.info.capabilities.max_temperature == 2.0


def test_greedy_n() -> None:
    assert body_of(request(sampling=SamplingParams(max_tokens=1, temperature=0.0)))["n"] == 1


def test_stop_limit() -> None:
    assert info().capabilities.max_stop_strings == 4


def test_stop_trim() -> None:
    kept = SamplingParams(max_tokens=1, stop=("x",), include_stop_str_in_output=True)
    assert body_of(request(sampling=kept))["include_stop_str_in_output"] is True
    assert body_of(request())["include_stop_str_in_output"] is False


def test_unknown_fields() -> None:
    """It would ignore what it doesn't know: all that we send of our own is in its list of fields."""
    fields = CONTRACT["http"]["endpoints"]
    [known] = [endpoint["request"] for endpoint in fields if endpoint["path"] == "/v1/completions"]
    sent = body_of(request(logprobs=1, cache_salt="s", truncate_prompt_tokens=3)).keys()
    assert set(sent) - set(known) == {"model", "truncation_side"} - set(known)


def test_usage_stream() -> None:
    assert body_of(request())["stream_options"] == {"include_usage": True}
    [*_, last] = decoded(completion("a", finish_reason="stop", token_ids=[5]), USAGE)
    assert last.usage is not None
    assert last.usage.num_output_tokens == 2


def test_first_chat_chunk() -> None:
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "prompt_token_ids": [1, 2]}
    content = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "token_ids": [7]}]}
    end = {"choices": [{"index": 0, "delta": {"content": "!"}, "token_ids": [8], "finish_reason": "stop"}]}
    first, *_ = decoded(role, content, end, USAGE, chat=True)
    assert (first.text, first.num_tokens) == ("Hello", 1)
    assert first.prompt is not None
    assert first.prompt.token_ids == (1, 2)


def test_empty_text_chunks() -> None:
    first, *_ = decoded(completion("", token_ids=[9]), completion("é", token_ids=[10], finish_reason="stop"), USAGE)
    assert (first.text, first.num_tokens) == ("", 1)


@pytest.mark.parametrize("reason", ["stop", "length", "abort", "repetition"])
def test_finish_reasons(reason: str) -> None:
    [*_, last] = decoded(completion("a", finish_reason=reason, token_ids=[1]), USAGE)
    assert last.finish_reason is FinishReason(reason)
    assert FINISH_REASONS[reason] is FinishReason(reason)


def test_stop_reason_field() -> None:
    ends = {"END": "END", "7": 7, "eos": None}
    for name, reason in ends.items():
        [*_, last] = decoded(completion(name, finish_reason="stop", stop_reason=reason, token_ids=[1]), USAGE)
        assert last.stop_reason == reason


def test_no_queue_limit() -> None:
    """By default it never refuses; with a limit, what it says is overload."""
    assert "--max-num-queued-reqs" not in compile_plan(enginebay_backend(), context()).command
    limited = compile_plan(enginebay_backend(), context(max_queued_requests=3)).command
    assert limited[limited.index("--max-num-queued-reqs") + 1] == "3"
    assert isinstance(error(503, "The engine is currently busy", "Service Unavailable"), BackendOverloaded)


def test_auth_scope() -> None:
    """/health and /metrics are open; only the list of models tells that a key is wrong, so the start asks for it."""

    async def main() -> None:
        async with Simulator("vllm", ["m", "--api-key", "right"]) as simulator:
            backend = get_backend(
                "vllm", model="m", mode="external", url=simulator.url, options={"api_key": "wrong"}
            )  # fmt: skip
            with pytest.raises(Exception, match=r"options\.api_key"):
                await backend.start()

    asyncio.run(main())
    assert health_states(api(), 200) == [HealthState.READY]


def test_kv_usage_name() -> None:
    usage = METRICS.stats(sample(SAMPLES[0])).kv_cache_usage_ratio
    assert usage is not None
    assert 0 <= usage <= 1


def test_mem_fraction_default() -> None:
    """Left out it is the engine's own; what that is, is read back."""
    assert "--gpu-memory-utilization" not in compile_plan(enginebay_backend(), context()).command
    metrics = 'vllm:cache_config_info{gpu_memory_utilization="0.92"} 1.0\n'
    assert identified({**SERVER, "GET /metrics": (200, metrics)}).effective_settings["gpu_memory_fraction"] == 0.92


def test_seed_default() -> None:
    assert "seed" not in body_of(request())
    assert body_of(request(sampling=SamplingParams(max_tokens=1, seed=7)))["seed"] == 7
    command = compile_plan(enginebay_backend(), context(settings={"seed": 7})).command
    assert command[command.index("--seed") + 1] == "7"


def test_bos() -> None:
    assert body_of(request())["add_special_tokens"] is True
    assert body_of(request(prompt=Text("a", add_special_tokens=False)))["add_special_tokens"] is False
    assert body_of(request(prompt=CHAT))["add_special_tokens"] is False
    assert body_of(request(prompt=TokenIds((3,))))["prompt"] == [3]


def test_raw_prompt_deprecated() -> None:
    """The engine in process is only ever given what its own renderer made."""
    source = (Path(__file__).parents[1] / "src/enginebay_vllm/in_process.py").read_text(encoding="utf-8")
    assert "self._engine.generate(prompt, params" in source
    assert "prompt = await rendered(" in source


def test_every_quirk_has_its_test() -> None:
    contract = Path(__file__).parents[3] / "tests/data/contracts/vllm.yaml"
    quirks = YAML(typ="safe").load(contract.read_text(encoding="utf-8"))["quirks"]
    missing = [quirk["id"] for quirk in quirks if f"test_{quirk['id']}" not in globals()]
    assert missing == []


def test_a_wrong_range_is_the_requests_fault() -> None:
    assert isinstance(error(400, "top_p must be in (0, 1], got 0.0.", param="top_p"), InvalidRequest)
