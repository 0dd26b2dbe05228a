"""vLLM's server as an `EngineApi`: the OpenAI API with vLLM's fields, health and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import msgspec

from enginebay.backends.http_engine.api import JSON_HEADERS, PROBE_TIMEOUT_S, HttpCall, health_without_answer
from enginebay.errors import BackendError, ContextTooLong, EngineBayError, UpstreamError
from enginebay.types import (
    BackendInfo,
    Capabilities,
    EngineStats,
    Feature,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
    TokenIds,
)
from enginebay.wire.http_client import HttpClient
from enginebay.wire.openai_dialects import VLLM
from enginebay.wire.openai_encode import PATHS, encode_request, form_of, is_streamed
from enginebay_vllm import effective, probing
from enginebay_vllm.answer_errors import answer_error
from enginebay_vllm.decoder import VllmDecoder
from enginebay_vllm.json_schema import with_named_schema
from enginebay_vllm.metrics import METRICS
from enginebay_vllm.options import VllmOptions
from enginebay_vllm.tokenize import encode_tokenize

T = TypeVar("T")
_KEEP_THE_END = {"truncation_side": "left"}


class VllmApi:
    def __init__(self, options: VllmOptions, *, name: str) -> None:
        self._options, self._name = options, name
        self._was_ready = False

    def call(self, request: GenerationRequest, info: BackendInfo) -> HttpCall:
        _check_length(request, info)
        body = encode_request(
            with_named_schema(request),
            model=info.model,
            dialect=VLLM,
            backend=self._name,
            return_token_ids=self._options.return_token_ids,
            extra_body=self._extra_body(request),
        )
        form = form_of(request)
        decoder = VllmDecoder(form, backend=self._name, num_alternatives=request.logprobs)
        return HttpCall(path=PATHS[form], body=body, decoder=decoder, is_streamed=is_streamed(request))

    def _extra_body(self, request: GenerationRequest) -> Mapping[str, object]:
        """Which end of the prompt is cut off, the tokenizer of the model would decide otherwise."""
        if request.truncate_prompt_tokens is None:
            return self._options.extra_body
        return {**self._options.extra_body, **_KEEP_THE_END}

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> EngineBayError:
        return answer_error(status, body, backend=self._name, headers=headers)

    # ---------------------------------------------------------------- beside the data path

    async def health(self, http: HttpClient) -> Health:
        """It listens only when the model is loaded, and answers 503 only when the engine behind it is dead."""
        try:
            response = await http.request("GET", "/health", timeout_s=PROBE_TIMEOUT_S)
        except BackendError as error:
            return health_without_answer(error, was_ready=self._was_ready)
        if response.status == 200:
            self._was_ready = True
            return Health(HealthState.READY)
        if response.status == 503:
            return Health(HealthState.DEAD, "vLLM's engine core has ended", is_final=True)
        return Health(HealthState.DEGRADED, f"HTTP {response.status}")

    async def identify(self, http: HttpClient, info: BackendInfo) -> BackendInfo:
        served = await probing.find_model(http, info.model, backend=self._name)
        metrics = await probing.read_metrics(http, backend=self._name)
        server_info = await probing.read_server_info(http)
        settings = {
            "served_model_name": served.model.id,
            **effective.from_cache_labels(probing.cache_config(metrics)),
            **(effective.from_engine_config(server_info.vllm_config) if server_info is not None else {}),
        }
        if served.model.max_model_len is not None:
            settings["max_model_len"] = served.model.max_model_len
        lacking = {
            Feature.ADAPTER: not served.adapters,
            Feature.RESET_PREFIX_CACHE: server_info is None,
            Feature.PRIORITY: settings.get("scheduling_policy", self._options.scheduling_policy) != "priority",
            Feature.COUNT_TOKENS: not await probing.can_tokenize(http, served.model.id),
        }
        return replace(
            info,
            model=served.model.id,
            engine_version=await probing.read_version(http),
            max_model_len=served.model.max_model_len,
            capabilities=_corrected(info.capabilities, lacking),
            effective_settings=settings,
            simulated=served.simulated or probing.says_simulated(metrics),
        )

    async def stats(self, http: HttpClient) -> EngineStats:
        return METRICS.stats(await probing.read_metrics(http, backend=self._name))

    async def count_tokens(self, http: HttpClient, prompt: Prompt, info: BackendInfo) -> tuple[int, ...]:
        if isinstance(prompt, TokenIds):
            return prompt.token_ids
        answer = await self._post(http, "/tokenize", encode_tokenize(prompt, model=info.model), _Tokenized)
        return answer.tokens

    async def reset_prefix_cache(self, http: HttpClient) -> None:
        """Raises UpstreamError when it was refused, as it is while requests run."""
        answer = await self._post(http, "/reset_prefix_cache", b"", _Reset)
        if not answer.success:
            raise UpstreamError("the prefix cache was not reset: requests hold blocks of it", backend=self._name)

    async def _post(self, http: HttpClient, path: str, body: bytes, form: type[T]) -> T:
        response = await http.request("POST", path, body=body, headers=JSON_HEADERS, timeout_s=PROBE_TIMEOUT_S)
        if response.status != 200:
            raise self.error(response.status, response.body, response.headers)
        try:
            return msgspec.json.decode(response.body, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(f"the answer to {path} is not understood: {error}", backend=self._name) from error


class _Tokenized(msgspec.Struct):
    tokens: tuple[int, ...]


class _Reset(msgspec.Struct):
    success: bool


def _corrected(declared: Capabilities, lacking: Mapping[Feature, bool]) -> Capabilities:
    """What this one server was found to have or lack decides; of the rest, what was declared."""
    without = {feature for feature, is_lacking in lacking.items() if is_lacking}
    return replace(declared, features=(declared.features | frozenset(lacking)) - without)


def _check_length(request: GenerationRequest, info: BackendInfo) -> None:
    """vLLM would generate what fits and call it `length`: a request of known length is refused instead."""
    if not isinstance(request.prompt, TokenIds) or info.max_model_len is None:
        return
    kept = request.truncate_prompt_tokens
    num_tokens = len(request.prompt.token_ids) if kept is None else min(kept, len(request.prompt.token_ids))
    max_tokens = request.sampling.max_tokens
    if num_tokens + max_tokens > info.max_model_len:
        raise ContextTooLong(num_tokens=num_tokens, limit=info.max_model_len, max_tokens=max_tokens)
