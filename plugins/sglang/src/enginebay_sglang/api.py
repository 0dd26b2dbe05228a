"""SGLang's HTTP API as an `EngineApi`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from enginebay.backends.http_engine.api import JSON_HEADERS, PROBE_TIMEOUT_S, HttpCall, health_without_answer
from enginebay.errors import BackendError, EngineBayError, StartFailed, UnsupportedFeature, UpstreamError
from enginebay.quantities import SIMULATED_HEADER, SIMULATED_METRIC
from enginebay.types import (
    BackendInfo,
    Chat,
    EngineStats,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
    Text,
    TokenIds,
)
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpResponse
from enginebay.wire.prometheus_text import parse_metrics
from enginebay_sglang.capabilities import with_seed
from enginebay_sglang.chat_decoder import ChatDecoder
from enginebay_sglang.decoder import GenerateDecoder
from enginebay_sglang.encode import encode_chat, encode_generate
from enginebay_sglang.errors import error_from_body
from enginebay_sglang.identity import effective_settings, read_server_info
from enginebay_sglang.metrics import METRICS
from enginebay_sglang.served import find_card

_FLUSH_TIMEOUT_S = 60.0


class SglangApi:
    def __init__(self, *, name: str, model_names: tuple[str, ...] = ()) -> None:
        """model_names: any of which the model may be listed under; none are the name of `BackendInfo.model`."""
        self._name, self._model_names = name, model_names
        self._is_cumulative = True
        self._adds_special_tokens = True
        self._has_answered = False

    # ---------------------------------------------------------------- requests

    def call(self, request: GenerationRequest, info: BackendInfo) -> HttpCall:
        is_streamed = request.delivery == "stream"
        if isinstance(request.prompt, Chat):
            body = encode_chat(request, model=info.model, backend=self._name)
            chat = ChatDecoder(backend=self._name, num_alternatives=request.logprobs)
            return HttpCall(path="/v1/chat/completions", body=body, decoder=chat, is_streamed=is_streamed)
        self._demand_special_tokens(request.prompt)
        decoder = GenerateDecoder(
            backend=self._name,
            is_cumulative=self._is_cumulative,
            stop_token_ids=request.sampling.stop_token_ids,
            num_alternatives=request.logprobs,
        )
        body = encode_generate(request, backend=self._name)
        return HttpCall(path="/generate", body=body, decoder=decoder, is_streamed=is_streamed)

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> EngineBayError:
        return error_from_body(status, body, backend=self._name)

    def _demand_special_tokens(self, prompt: Prompt) -> None:
        """/generate has no field for it. Where the tokenizer adds none, to leave them out changes nothing."""
        if isinstance(prompt, Text) and not prompt.add_special_tokens and self._adds_special_tokens:
            detail = "a text always gets the tokenizer's special tokens: send token ids"
            raise UnsupportedFeature(field="add_special_tokens", backend=self._name, detail=detail)

    # ---------------------------------------------------------------- the server

    async def health(self, http: HttpClient) -> Health:
        """/ready, never /health: that one generates a token, waits at least a second and up to twenty."""
        try:
            response = await http.request("GET", "/ready", timeout_s=PROBE_TIMEOUT_S)
        except BackendError as error:
            # The port opens some time after the process has begun.
            return health_without_answer(error, was_ready=self._has_answered)
        self._has_answered = True
        if response.status == 200:
            return Health(HealthState.READY)
        if response.status == 503:
            return Health(HealthState.LOADING, "the server takes no requests: it warms up, or ends")
        return Health(HealthState.DEGRADED, f"/ready answered HTTP {response.status}")

    async def identify(self, http: HttpClient, info: BackendInfo) -> BackendInfo:
        response = await http.request("GET", "/server_info", timeout_s=PROBE_TIMEOUT_S)
        if response.status in (401, 403):
            raise StartFailed(
                f"{self._name}: the server refuses us (HTTP {response.status})",
                backend=self._name,
                likely_cause="the API key: set options.api_key",
            )
        told = read_server_info(self._body(response), backend=self._name)
        settings = effective_settings(told)
        self._is_cumulative = told.get("incremental_streaming_output") is not True
        bare, special = await self._tokens_of(http, "a", False), await self._tokens_of(http, "a", True)
        self._adds_special_tokens = bare != special
        listed = self._body(await http.request("GET", "/v1/models", timeout_s=PROBE_TIMEOUT_S))
        card = find_card(listed, self._model_names or (info.model,), backend=self._name)
        if card.max_model_len is not None:
            settings["max_model_len"] = card.max_model_len
        metrics = await http.request("GET", "/metrics", timeout_s=PROBE_TIMEOUT_S)
        version = told.get("version")
        return replace(
            info,
            model=card.id,
            engine_version=version if isinstance(version, str) else None,
            max_model_len=card.max_model_len,
            capabilities=with_seed(told.get("enable_deterministic_inference") is True),
            effective_settings=settings | {"metrics": metrics.status == 200},
            simulated=response.headers.get(SIMULATED_HEADER) == "1" or _says_simulated(metrics),
        )

    async def stats(self, http: HttpClient) -> EngineStats:
        response = await http.request("GET", "/metrics", timeout_s=PROBE_TIMEOUT_S)
        if response.status == 404:
            return EngineStats()  # started without --enable-metrics, which a launched server never is
        return METRICS.stats(parse_metrics(self._body(response).decode("utf-8", "replace")))

    async def reset_prefix_cache(self, http: HttpClient) -> None:
        """Raises UpstreamError while requests run: then the server refuses."""
        self._body(await http.request("POST", "/flush_cache", timeout_s=_FLUSH_TIMEOUT_S))

    # ---------------------------------------------------------------- tokens

    async def count_tokens(self, http: HttpClient, prompt: Prompt, info: BackendInfo) -> tuple[int, ...]:
        if isinstance(prompt, TokenIds):
            return prompt.token_ids
        if isinstance(prompt, Chat):
            detail = "the server has no route that applies the template alone"
            raise UnsupportedFeature(field="count_tokens", backend=self._name, detail=detail)
        return await self._tokens_of(http, prompt.text, prompt.add_special_tokens)

    async def _tokens_of(self, http: HttpClient, text: str, add_special_tokens: bool) -> tuple[int, ...]:
        body = msgspec.json.encode({"prompt": text, "add_special_tokens": add_special_tokens})
        headers, timeout_s = JSON_HEADERS, PROBE_TIMEOUT_S
        answer = self._body(await http.request("POST", "/tokenize", body=body, headers=headers, timeout_s=timeout_s))
        try:
            return msgspec.json.decode(answer, type=_Tokenized).tokens
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(f"/tokenize answered with no tokens: {error}", backend=self._name) from error

    def _body(self, response: HttpResponse) -> bytes:
        if response.status != 200:
            raise self.error(response.status, response.body, response.headers)
        return response.body


class _Tokenized(msgspec.Struct):
    tokens: tuple[int, ...]


def _says_simulated(metrics: HttpResponse) -> bool:
    if metrics.status != 200:
        return False
    return parse_metrics(metrics.body.decode("utf-8", "replace")).value(SIMULATED_METRIC) == 1
