"""vLLM's server as the adapter speaks to it, against answers that a real one gave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from enginebay.errors import (
    BackendOverloaded,
    BackendTimeout,
    BackendUnavailable,
    ContextTooLong,
    EngineDied,
    InvalidRequest,
    StartFailed,
    UnknownModel,
    UpstreamError,
)
from enginebay.testing.told_http import health_states
from enginebay.types import (
    BackendInfo,
    Chat,
    Feature,
    GenerationRequest,
    HealthState,
    Message,
    ResponseFormat,
    SamplingParams,
    Text,
    TokenIds,
)
from enginebay.wire.http_types import HttpResponse
from enginebay_vllm.api import VllmApi
from enginebay_vllm.capabilities import capabilities, in_process_capabilities
from enginebay_vllm.options import VllmOptions

MODEL = "small"
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."


class CannedHttp:
    """Answers by method and path; anything else is a 404."""

    def __init__(self, answers: Mapping[str, tuple[int, object]]) -> None:
        self.answers = dict(answers)
        self.bodies: dict[str, Any] = {}

    async def request(
        self, method: str, path: str, *, body: bytes = b"", headers: Any = None, timeout_s: float | None = None
    ) -> HttpResponse:
        self.bodies[path] = json.loads(body) if body else None
        status, answer = self.answers.get(f"{method} {path}", (404, {"detail": "Not Found"}))
        if isinstance(answer, Exception):
            raise answer
        content = answer.encode() if isinstance(answer, str) else msgspec.json.encode(answer)
        return HttpResponse(status, {}, content, 0.0)


METRICS = 'vllm:cache_config_info{block_size="128",cache_dtype="auto",enable_prefix_caching="True"} 1.0\n'
CARD = {"id": MODEL, "root": "/models/small", "parent": None, "max_model_len": 8192}
SERVER: Mapping[str, tuple[int, object]] = {
    "GET /v1/models": (200, {"object": "list", "data": [CARD]}),
    "GET /version": (200, {"version": "0.32.0"}),
    "GET /metrics": (200, METRICS),
    "POST /tokenize": (200, {"count": 1, "max_model_len": 8192, "tokens": [81], "token_strs": None}),
}
SERVER_INFO = {
    "vllm_config": {
        "model_config": {"dtype": "torch.bfloat16", "seed": 0, "quantization": None, "trust_remote_code": False},
        "parallel_config": {"tensor_parallel_size": 2, "pipeline_parallel_size": 1, "data_parallel_size": 1},
        "scheduler_config": {"max_num_seqs": 64, "enable_chunked_prefill": True, "policy": "priority"},
        "cache_config": {"cache_dtype": "fp8", "num_gpu_blocks": 728},
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 4, "model": "ngram"},
        "logging_config": {"log_level": "INFO"},
        "device_config": {"device": "cpu"},
    },
    "vllm_env": {},
}


def made(**options: Any) -> VllmOptions:
    return VllmOptions.model_validate(options)


def api(**options: Any) -> VllmApi:
    return VllmApi(made(**options), name="vllm")


def info(**options: Any) -> BackendInfo:
    declared = capabilities(None, made(**options))
    return BackendInfo(kind="vllm", name="vllm", model=MODEL, capabilities=declared, max_model_len=8192)


def identified(answers: Mapping[str, tuple[int, object]], **options: Any) -> BackendInfo:
    return asyncio.run(api(**options).identify(CannedHttp(answers), info(**options)))  # pyright: ignore[reportArgumentType]


def request(**fields: Any) -> GenerationRequest:
    fields.setdefault("prompt", Text("Hello"))
    fields.setdefault("sampling", SamplingParams(max_tokens=4))
    return GenerationRequest(request_id="r", **fields)


def body_of(wanted: GenerationRequest, **options: Any) -> dict[str, Any]:
    return json.loads(api(**options).call(wanted, info(**options)).body)


# ---------------------------------------------------------------- requests


def test_every_sampling_field_is_sent_so_that_no_default_of_the_model_counts() -> None:
    body = body_of(request())
    assert {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "max_tokens"} <= set(
        body
    )
    assert body["return_token_ids"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_token_ids_are_sent_as_they_are() -> None:
    assert body_of(request(prompt=TokenIds((5, 6))))["prompt"] == [5, 6]


def test_a_truncated_prompt_keeps_its_end() -> None:
    body = body_of(request(truncate_prompt_tokens=2))
    assert (body["truncate_prompt_tokens"], body["truncation_side"]) == (2, "left")
    assert "truncation_side" not in body_of(request())


def test_what_the_server_would_cut_short_silently_is_refused() -> None:
    wanted = request(prompt=TokenIds((1,) * 8000), sampling=SamplingParams(max_tokens=200))
    with pytest.raises(ContextTooLong, match="8000 prompt tokens and 200 output tokens"):
        api().call(wanted, info())
    api().call(replace(wanted, truncate_prompt_tokens=100), info())


@pytest.mark.parametrize("schema", [{"enum": ["yes", "no"]}, {"name": "answer", "schema": {"enum": ["yes", "no"]}}])
def test_a_bare_schema_is_given_the_name_that_the_server_demands(schema: dict[str, object]) -> None:
    sent = body_of(request(response_format=ResponseFormat(type="json_schema", schema=schema)))["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"enum": ["yes", "no"]}}}


def test_options_add_fields_but_none_that_a_request_decides() -> None:
    assert body_of(request(), extra_body={"vllm_xargs": {"a": 1}})["vllm_xargs"] == {"a": 1}
    with pytest.raises(ValueError, match="truncation_side"):
        made(extra_body={"truncation_side": "right"})


# ---------------------------------------------------------------- errors, as vLLM 0.32.0 words them


def error(status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Exception:
    body = {"error": {"message": message, "type": kind, "param": param, "code": status}}
    return api().error(status, msgspec.json.encode(body), {})


def test_a_full_queue_is_overload() -> None:
    message = "The engine is currently busy and cannot accept new requests. Please try again later"
    assert isinstance(error(503, message, "Service Unavailable"), BackendOverloaded)
    message = "The engine has reached its prefill token backlog limit. Please try again later"
    assert isinstance(error(503, message, "Service Unavailable"), BackendOverloaded)


def test_a_failure_that_may_be_retried_is_no_overload() -> None:
    found = error(503, "Request failed; please retry", "ServiceUnavailableError")
    assert type(found) is BackendUnavailable


def test_a_dead_engine_is_told() -> None:
    assert isinstance(error(500, DEAD, "InternalServerError"), EngineDied)


def test_another_failure_of_the_engine_is_its_own_fault() -> None:
    assert type(error(500, "something broke", "InternalServerError")) is UpstreamError


def test_an_unknown_model_is_named() -> None:
    found = error(404, "The model `nope` does not exist. Valid aliases: small.", "NotFoundError", "model")
    assert isinstance(found, UnknownModel)
    assert "'nope'" in str(found)


@pytest.mark.parametrize(
    ("message", "param", "expected"),
    [
        (
            "This model's maximum context length is 8192 tokens. However, your prompt contains at least 8193 input "
            "tokens, which exceeds this limit even without any output tokens. (parameter=input_tokens, value=8193)",
            "input_tokens",
            (8193, 8192, "prompt"),
        ),
        (
            "This model's maximum context length is 8192 tokens. However, your prompt contains 900000 characters (more "
            "than 663552 characters, which is the upper bound for 8192 input tokens). Please reduce the length",
            "input_text",
            (8193, 8192, "prompt"),
        ),
        (
            "max_tokens=9000 cannot be greater than max_model_len=8192. Please request fewer output tokens.",
            "max_tokens",
            (1, 8192, "max_tokens"),
        ),
    ],
)
def test_a_request_that_is_too_long_is_told_as_such(message: str, param: str, expected: tuple[int, int, str]) -> None:
    found = error(400, message, param=param)
    assert isinstance(found, ContextTooLong)
    assert (found.num_tokens, found.limit, found.field) == expected


def test_a_wrong_value_names_its_field() -> None:
    found = error(
        400, "temperature must be in [0, 2], got 3.0. (parameter=temperature, value=3.0)", param="temperature"
    )
    assert isinstance(found, InvalidRequest)
    assert found.field == "temperature"


def test_what_the_model_cannot_do_is_the_requests_fault() -> None:
    assert isinstance(error(501, "not implemented for this model", "NotImplementedError"), InvalidRequest)


def test_a_wrong_key_says_where_to_set_it() -> None:
    assert "options.api_key" in str(api().error(401, b'{"error": "Unauthorized"}', {}))


def test_the_death_of_the_engine_inside_a_stream_is_told() -> None:
    decoder = api().call(request(), info()).decoder
    event = {"error": {"message": DEAD, "type": "InternalServerError", "param": None, "code": 500}}
    with pytest.raises(EngineDied):
        list(decoder.feed(b"data: " + msgspec.json.encode(event) + b"\n\ndata: [DONE]\n\n", 1.0))


# ---------------------------------------------------------------- health


def test_a_server_that_does_not_listen_yet_loads_and_later_it_is_dead() -> None:
    refused = BackendUnavailable("connection refused")
    assert health_states(api(), refused, 200, refused) == [HealthState.LOADING, HealthState.READY, HealthState.DEAD]


def test_a_server_that_answers_too_late_is_slow_and_not_dead() -> None:
    late = BackendTimeout("no answer within 5 s")
    assert health_states(api(), late, 200, late, 200) == [
        HealthState.LOADING, HealthState.READY, HealthState.DEGRADED, HealthState.READY,
    ]  # fmt: skip


def test_503_is_a_dead_engine_and_no_loading_one() -> None:
    assert health_states(api(), 200, 503) == [HealthState.READY, HealthState.DEAD]


# ---------------------------------------------------------------- what it is


def test_a_plain_server_tells_its_cache_and_its_length() -> None:
    found = identified(SERVER)
    assert (found.model, found.engine_version, found.max_model_len, found.simulated) == (MODEL, "0.32.0", 8192, False)
    assert found.effective_settings == {
        "served_model_name": MODEL,
        "kv_cache_dtype": "auto",
        "enable_prefix_caching": True,
        "block_size": 128,
        "max_model_len": 8192,
    }
    assert Feature.COUNT_TOKENS in found.capabilities
    assert not {Feature.RESET_PREFIX_CACHE, Feature.PRIORITY, Feature.ADAPTER} & found.capabilities.features


def test_a_server_in_development_mode_tells_everything() -> None:
    found = identified({**SERVER, "GET /server_info?config_format=json": (200, SERVER_INFO)})
    settings = found.effective_settings
    assert settings["dtype"] == "bfloat16"
    assert settings["tensor_parallel_size"] == 2
    assert settings["max_num_seqs"] == 64
    assert settings["chunked_prefill"] is True
    assert settings["kv_cache_dtype"] == "fp8"
    assert settings["speculative_ngram"] == 4
    assert settings["log_level"] == "info"
    assert settings["device"] == "cpu"
    assert "quantization" not in settings, "what is not told is unknown"
    assert {Feature.RESET_PREFIX_CACHE, Feature.PRIORITY} <= found.capabilities.features


def test_adapters_are_found_in_the_list_of_models() -> None:
    adapter = {"id": "poet", "root": "/adapters/poet", "parent": MODEL}
    found = identified({**SERVER, "GET /v1/models": (200, {"data": [CARD, adapter]})})
    assert Feature.ADAPTER in found.capabilities


def test_a_model_is_found_by_what_was_loaded() -> None:
    there = {"id": "other", "root": MODEL, "parent": None}
    assert identified({**SERVER, "GET /v1/models": (200, {"data": [there]})}).model == "other"


def test_a_server_without_the_model_is_refused_with_what_it_has() -> None:
    with pytest.raises(StartFailed, match=r"it serves 'other'.*\n.*served_model_name"):
        identified({**SERVER, "GET /v1/models": (200, {"data": [{"id": "other"}]})})


def test_a_server_that_refuses_us_says_which_option_is_missing() -> None:
    with pytest.raises(StartFailed, match=r"options\.api_key"):
        identified({**SERVER, "GET /v1/models": (401, {"error": "Unauthorized"})})


def test_a_server_that_cannot_tokenise_counts_no_tokens() -> None:
    answers = {key: value for key, value in SERVER.items() if key != "POST /tokenize"}
    assert Feature.COUNT_TOKENS not in identified(answers).capabilities


def test_a_chat_is_counted_with_all_that_shapes_its_prompt() -> None:
    chat = Chat(
        (Message("user", "hi"),), template="{{ x }}", template_kwargs={"x": 1}, add_generation_prompt=False,
        tools=({"type": "function", "function": {"name": "f"}},),
    )  # fmt: skip
    http = CannedHttp(SERVER)
    assert asyncio.run(api().count_tokens(http, chat, info())) == (81,)  # pyright: ignore[reportArgumentType]
    sent = http.bodies["/tokenize"]
    assert sent["messages"] == [{"role": "user", "content": "hi"}]
    assert (sent["chat_template"], sent["chat_template_kwargs"], sent["add_generation_prompt"]) == (
        "{{ x }}",
        {"x": 1},
        False,
    )
    assert sent["tools"][0]["function"]["name"] == "f"


def test_a_reset_that_did_not_happen_is_an_error() -> None:
    def reset(answer: object) -> None:
        http = CannedHttp({"POST /reset_prefix_cache": (200, answer)})
        asyncio.run(api().reset_prefix_cache(http))  # pyright: ignore[reportArgumentType]

    reset({"success": True})
    with pytest.raises(UpstreamError, match="hold blocks"):
        reset({"success": False})


# ---------------------------------------------------------------- capabilities


def test_what_an_option_switches_on_is_declared_with_it_and_not_without() -> None:
    plain = capabilities(None, made()).features
    options = made(
        scheduling_policy="priority", tool_call_parser="hermes", trust_request_chat_template=True, dev_mode=True
    )
    switched = {Feature.PRIORITY, Feature.TOOLS, Feature.CHAT_TEMPLATE, Feature.RESET_PREFIX_CACHE}
    assert not plain & switched
    assert switched <= capabilities(None, options).features


def test_in_process_there_is_no_limit_of_stop_strings_and_no_server() -> None:
    own = in_process_capabilities(None, made(tool_call_parser="hermes"))
    assert own.max_stop_strings is None
    assert not {Feature.TOOLS, Feature.IMAGES, Feature.ADAPTER} & own.features
    assert {Feature.RESET_PREFIX_CACHE, Feature.CHAT_TEMPLATE, Feature.DEADLINE} <= own.features


def test_neither_prefill_alone_nor_a_resumed_answer_is_declared() -> None:
    assert not {Feature.PREFILL_ONLY, Feature.RESUME} & capabilities(None, made()).features
