"""llama-server's HTTP API as an `EngineApi`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from enginebay.backends.http_engine.api import JSON_HEADERS, PROBE_TIMEOUT_S, HttpCall, health_without_answer
from enginebay.errors import (
    BackendError,
    ContextTooLong,
    EngineBayError,
    InvalidRequest,
    StartFailed,
    UnsupportedFeature,
    UpstreamError,
)
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
from enginebay_llama_cpp.chat_decoder import ChatDecoder
from enginebay_llama_cpp.decoder import CompletionDecoder
from enginebay_llama_cpp.encode import encode_chat, encode_completion, template_fields
from enginebay_llama_cpp.errors import error_from_body
from enginebay_llama_cpp.identity import identify
from enginebay_llama_cpp.metrics import METRICS

T = TypeVar("T")
_UNKNOWN_CONTEXT_LENGTH = 8192


class LlamaCppApi:
    def __init__(self, *, name: str) -> None:
        self._name = name
        self._adds_special_tokens = True
        self._has_answered = False

    # ---------------------------------------------------------------- requests

    def call(self, request: GenerationRequest, info: BackendInfo) -> HttpCall:
        context_length = info.max_model_len or _UNKNOWN_CONTEXT_LENGTH
        is_streamed = request.delivery == "stream"
        if isinstance(request.prompt, Chat):
            body = encode_chat(request, model=info.model, context_length=context_length, backend=self._name)
            decoder = ChatDecoder(backend=self._name, num_alternatives=request.logprobs)
            return HttpCall(path="/v1/chat/completions", body=body, decoder=decoder, is_streamed=is_streamed)
        self._demand_tokens(request.prompt)
        self._demand_special_tokens(request.prompt)
        _demand_room(request, info)
        body = encode_completion(request, context_length=context_length, backend=self._name)
        decoder = CompletionDecoder(
            backend=self._name, num_alternatives=request.logprobs, max_tokens=max(1, request.sampling.max_tokens)
        )
        return HttpCall(path="/completion", body=body, decoder=decoder, is_streamed=is_streamed)

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> EngineBayError:
        return error_from_body(status, body, backend=self._name)

    def _demand_tokens(self, prompt: Prompt) -> None:
        """An empty text is the model's BOS alone, and without one the server ends the answer without any reason."""
        if isinstance(prompt, Text) and not prompt.text and not self._adds_special_tokens:
            raise InvalidRequest("the prompt is empty, and this model begins with no token of its own", field="prompt")

    def _demand_special_tokens(self, prompt: Prompt) -> None:
        """A text gets the model's BOS. Where the model has none, to leave it out changes nothing."""
        if isinstance(prompt, Text) and not prompt.add_special_tokens and self._adds_special_tokens:
            detail = "a text always gets the model's BOS: send token ids"
            raise UnsupportedFeature(field="add_special_tokens", backend=self._name, detail=detail)

    # ---------------------------------------------------------------- the server

    async def health(self, http: HttpClient) -> Health:
        """503 means that it loads, here as on every other route."""
        try:
            response = await http.request("GET", "/health", timeout_s=PROBE_TIMEOUT_S)
        except BackendError as error:
            # The port opens some time after the process has begun.
            return health_without_answer(error, was_ready=self._has_answered)
        self._has_answered = True
        if response.status == 200:
            return Health(HealthState.READY)
        state = HealthState.LOADING if response.status == 503 else HealthState.DEGRADED
        return Health(state, str(self.error(response.status, response.body, response.headers)))

    async def identify(self, http: HttpClient, info: BackendInfo) -> BackendInfo:
        response = await http.request("GET", "/props", timeout_s=PROBE_TIMEOUT_S)
        if response.status in (401, 403):
            raise StartFailed(
                f"{self._name}: the server refuses us (HTTP {response.status})",
                backend=self._name,
                likely_cause="the API key: set options.api_key",
            )
        self._adds_special_tokens = await self._tokens_of(http, "a", True) != await self._tokens_of(http, "a", False)
        metrics = await http.request("GET", "/metrics", timeout_s=PROBE_TIMEOUT_S)
        return identify(info, self._body(response), headers=response.headers, metrics=metrics, backend=self._name)

    async def stats(self, http: HttpClient) -> EngineStats:
        response = await http.request("GET", "/metrics", timeout_s=PROBE_TIMEOUT_S)
        if response.status == 501:
            return EngineStats()  # started without --metrics, which a launched server never is
        return METRICS.stats(parse_metrics(self._body(response).decode("utf-8", "replace")))

    # ---------------------------------------------------------------- tokens

    async def count_tokens(self, http: HttpClient, prompt: Prompt, info: BackendInfo) -> tuple[int, ...]:
        if isinstance(prompt, TokenIds):
            return prompt.token_ids
        if isinstance(prompt, Text):
            return await self._tokens_of(http, prompt.text, prompt.add_special_tokens)
        return await self._tokens_of(http, await self._rendered(http, prompt), True)

    async def _rendered(self, http: HttpClient, chat: Chat) -> str:
        body = msgspec.json.encode(template_fields(chat, backend=self._name))
        answer = await self._post(http, "/apply-template", body)
        return _decoded(answer, _Rendered, "/apply-template", backend=self._name).prompt

    async def _tokens_of(self, http: HttpClient, text: str, add_special: bool) -> tuple[int, ...]:
        body = msgspec.json.encode({"content": text, "add_special": add_special, "parse_special": True})
        answer = await self._post(http, "/tokenize", body)
        return _decoded(answer, _Tokenized, "/tokenize", backend=self._name).tokens

    async def _post(self, http: HttpClient, path: str, body: bytes) -> bytes:
        headers = JSON_HEADERS
        return self._body(await http.request("POST", path, body=body, headers=headers, timeout_s=PROBE_TIMEOUT_S))

    def _body(self, response: HttpResponse) -> bytes:
        if response.status != 200:
            raise self.error(response.status, response.body, response.headers)
        return response.body


def _demand_room(request: GenerationRequest, info: BackendInfo) -> None:
    """The server ends an answer where its slot is full, without a word. Token ids can be counted before."""
    limit, max_tokens = info.max_model_len, request.sampling.max_tokens
    if limit is None or not isinstance(request.prompt, TokenIds):
        return
    num_tokens = len(request.prompt.token_ids)
    if num_tokens < limit < num_tokens + max_tokens:
        raise ContextTooLong(num_tokens=num_tokens, limit=limit, max_tokens=max_tokens)


class _Rendered(msgspec.Struct):
    prompt: str


class _Tokenized(msgspec.Struct):
    tokens: tuple[int, ...]


def _decoded(body: bytes, form: type[T], path: str, *, backend: str) -> T:
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError(f"{path} answered with something else than documented: {error}", backend=backend) from error
