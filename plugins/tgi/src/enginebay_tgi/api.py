"""TGI's HTTP API as an `EngineApi`.

A text goes to the native routes: they tell token ids, log-probabilities and exact counts. A chat goes to
/v1/chat/completions, which tells everything but the ids: to render it by /chat_tokenize first would need a second
request inside the measured time, and the native route would then add a second begin-of-sequence to a template that
has one, which no field can prevent.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from enginebay.backends.http_engine.api import JSON_HEADERS, PROBE_TIMEOUT_S, HttpCall, health_without_answer
from enginebay.errors import (
    BackendError,
    EngineBayError,
    InvalidRequest,
    UnsupportedFeature,
    UpstreamError,
)
from enginebay.types import (
    BackendInfo,
    Chat,
    EngineStats,
    Feature,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
    Text,
)
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpResponse
from enginebay.wire.prometheus_text import parse_metrics
from enginebay_tgi.chat_decoder import ChatDecoder
from enginebay_tgi.errors import error_from_answer
from enginebay_tgi.identify import SimpleToken, find_out
from enginebay_tgi.metrics import stats_from
from enginebay_tgi.native_decoder import NativeDecoder
from enginebay_tgi.request_body import GENERATE, encode_chat_to_tokenize, encode_request, path_of


class TgiApi:
    def __init__(self, *, name: str) -> None:
        self._name = name
        self._adds_special_tokens = True
        """Until `identify` knows."""
        self._has_answered = False

    def call(self, request: GenerationRequest, info: BackendInfo) -> HttpCall:
        _demand_prompt(request)
        body = encode_request(request, backend=self._name, adds_special_tokens=self._adds_special_tokens)
        path = path_of(request)
        decode = ChatDecoder if isinstance(request.prompt, Chat) else NativeDecoder
        return HttpCall(
            path=path, body=body, decoder=decode(request, backend=self._name), is_streamed=path != GENERATE
        )  # fmt: skip

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> EngineBayError:
        return error_from_answer(status, body, headers, backend=self._name)

    async def health(self, http: HttpClient) -> Health:
        """TGI listens only when it is ready: one that never answered may still load."""
        try:
            response = await http.request("GET", "/health", timeout_s=PROBE_TIMEOUT_S)
        except BackendError as error:
            return health_without_answer(error, was_ready=self._has_answered)
        self._has_answered = True
        if response.status == 200:
            return Health(HealthState.READY)
        error = self.error(response.status, response.body, response.headers)
        return Health(HealthState.DEAD, f"HTTP {response.status}: {error}")

    async def identify(self, http: HttpClient, info: BackendInfo) -> BackendInfo:
        found = await find_out(http, info, backend=self._name)
        self._adds_special_tokens = found.adds_special_tokens
        return found.info

    async def stats(self, http: HttpClient) -> EngineStats:
        response = await http.request("GET", "/metrics", timeout_s=PROBE_TIMEOUT_S)
        if response.status != 200:
            raise self.error(response.status, response.body, response.headers)
        return stats_from(parse_metrics(response.body.decode("utf-8", "replace")))

    async def count_tokens(self, http: HttpClient, prompt: Prompt, info: BackendInfo) -> tuple[int, ...]:
        if isinstance(prompt, Text):
            return await self._count_text(http, prompt)
        if isinstance(prompt, Chat):
            return await self._count_chat(http, prompt)
        raise UnsupportedFeature(field=Feature.TOKEN_PROMPT.value, backend=self._name)

    async def _count_text(self, http: HttpClient, prompt: Text) -> tuple[int, ...]:
        if self._adds_special_tokens and not prompt.add_special_tokens:
            detail = "TGI always adds the tokenizer's special tokens to a text"
            raise UnsupportedFeature(field="add_special_tokens", backend=self._name, detail=detail)
        response = await self._ask(http, "/tokenize", msgspec.json.encode({"inputs": prompt.text}))
        return self._ids(response, list[SimpleToken])

    async def _count_chat(self, http: HttpClient, chat: Chat) -> tuple[int, ...]:
        asked = {
            Feature.TOOLS: bool(chat.tools),
            Feature.TEMPLATE_KWARGS: bool(chat.template_kwargs),
            Feature.CHAT_TEMPLATE: chat.template is not None,
            Feature.CONTINUE_FINAL_MESSAGE: chat.continue_final_message,
        }
        for feature, is_asked in asked.items():
            if is_asked:
                raise UnsupportedFeature(field=feature.value, backend=self._name)
        body = encode_chat_to_tokenize(chat, backend=self._name, adds_special_tokens=self._adds_special_tokens)
        response = await self._ask(http, "/chat_tokenize", body)
        return self._ids(response, _ChatTokenized)

    async def _ask(self, http: HttpClient, path: str, body: bytes) -> HttpResponse:
        response = await http.request("POST", path, body=body, headers=JSON_HEADERS, timeout_s=PROBE_TIMEOUT_S)
        if response.status != 200:
            raise self.error(response.status, response.body, response.headers)
        return response

    def _ids(self, response: HttpResponse, form: type) -> tuple[int, ...]:
        try:
            read = msgspec.json.decode(response.body, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(f"the server's answer has no tokens: {error}", backend=self._name) from error
        tokens = read.tokenize_response if isinstance(read, _ChatTokenized) else read
        return tuple(token.id for token in tokens)


class _ChatTokenized(msgspec.Struct):
    tokenize_response: list[SimpleToken]


def _demand_prompt(request: GenerationRequest) -> None:
    """Refused here, at the call, and not by an event inside a stream that has already answered 200."""
    if isinstance(request.prompt, Text) and not request.prompt.text:
        raise InvalidRequest("TGI takes no empty prompt", field="prompt")
