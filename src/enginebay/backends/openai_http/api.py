"""The OpenAI API as an `EngineApi`, in the dialect of whoever answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from enginebay.backends.http_engine.api import JSON_HEADERS, PROBE_TIMEOUT_S, HttpCall
from enginebay.backends.http_engine.openai_decoder import OpenAIDecoder
from enginebay.backends.openai_http.options import OpenAIHttpOptions
from enginebay.backends.openai_http.probing import Found, find_out, read_health
from enginebay.backends.openai_http.server_stats import stats_from
from enginebay.errors import EngineBayError, UnsupportedFeature, UpstreamError
from enginebay.types import (
    BackendInfo,
    Chat,
    EngineStats,
    Feature,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
    TokenIds,
)
from enginebay.wire.http_client import HttpClient
from enginebay.wire.openai_dialects import DIALECTS, ENGINEBAY, Dialect
from enginebay.wire.openai_encode import PATHS, encode_request, encode_tokenize, form_of, is_streamed
from enginebay.wire.openai_errors import error_from_response
from enginebay.wire.prometheus_text import parse_metrics


class OpenAIApi:
    def __init__(self, options: OpenAIHttpOptions, *, name: str) -> None:
        self._options, self._name = options, name
        self.dialect: Dialect = ENGINEBAY if options.dialect == "auto" else DIALECTS[options.dialect]
        self._was_ready = False

    def call(self, request: GenerationRequest, info: BackendInfo) -> HttpCall:
        body = encode_request(
            request,
            model=info.model,
            dialect=self.dialect,
            backend=self._name,
            return_token_ids=self._options.return_token_ids and Feature.OUTPUT_TOKEN_IDS in info.capabilities,
            extra_body=self._options.extra_body,
        )
        form = form_of(request)
        decoder = OpenAIDecoder(form, backend=self._name, num_alternatives=request.logprobs)
        return HttpCall(path=PATHS[form], body=body, decoder=decoder, is_streamed=is_streamed(request))

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> EngineBayError:
        return error_from_response(status, body, backend=self._name, headers=headers)

    async def health(self, http: HttpClient) -> Health:
        health = await read_health(http, self._options, was_ready=self._was_ready)
        self._was_ready = self._was_ready or health.state is HealthState.READY
        return health

    async def identify(self, http: HttpClient, info: BackendInfo) -> BackendInfo:
        found = await find_out(http, self._options, model=info.model, backend=self._name)
        self.dialect = found.dialect
        return replace(
            info,
            model=found.model,
            capabilities=found.capabilities,
            engine_version=found.engine_version,
            max_model_len=found.max_model_len,
            effective_settings=_settings(found),
            simulated=found.simulated,
        )

    async def stats(self, http: HttpClient) -> EngineStats:
        response = await http.request("GET", "/metrics", timeout_s=PROBE_TIMEOUT_S)
        if response.status == 404:
            return EngineStats()
        if response.status != 200:
            raise self.error(response.status, response.body, response.headers)
        return stats_from(parse_metrics(response.body.decode("utf-8", "replace")))

    async def count_tokens(self, http: HttpClient, prompt: Prompt, info: BackendInfo) -> tuple[int, ...]:
        if isinstance(prompt, TokenIds):
            return prompt.token_ids
        if isinstance(prompt, Chat):
            _demand_plain(prompt, backend=self._name)
        body = encode_tokenize(prompt, model=info.model)
        response = await http.request("POST", "/tokenize", body=body, headers=JSON_HEADERS, timeout_s=PROBE_TIMEOUT_S)
        if response.status != 200:
            raise self.error(response.status, response.body, response.headers)
        try:
            return msgspec.json.decode(response.body, type=_Tokenized).tokens
        except msgspec.DecodeError as error:
            raise UpstreamError(f"/tokenize answered with no tokens: {error}", backend=self._name) from error


class _Tokenized(msgspec.Struct):
    tokens: tuple[int, ...]


def _settings(found: Found) -> dict[str, object]:
    settings: dict[str, object] = {**found.engine_settings, "dialect": found.dialect.name}
    if found.owned_by is not None:
        settings["owned_by"] = found.owned_by
    if found.max_model_len is not None:
        settings["max_model_len"] = found.max_model_len
    return settings


def _demand_plain(chat: Chat, *, backend: str) -> None:
    """/tokenize has the messages alone; what else shapes the prompt would be left out of the count."""
    asked = {
        "tools": bool(chat.tools),
        "chat_template_kwargs": bool(chat.template_kwargs),
        "chat_template": chat.template is not None,
        "add_generation_prompt": not chat.add_generation_prompt,
        "continue_final_message": chat.continue_final_message,
    }
    for field, is_asked in asked.items():
        if is_asked:
            raise UnsupportedFeature(field=field, backend=backend, detail="tokens cannot be counted with it")
