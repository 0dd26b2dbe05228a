"""A server that speaks the OpenAI API as a `Backend`. It computes nothing: bytes out, bytes in, typed chunks."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from dataclasses import replace

import msgspec

from enginebay.backend import BackendContext
from enginebay.backends.openai_http.options import OpenAIHttpOptions
from enginebay.backends.openai_http.probing import JSON_HEADERS, PROBE_TIMEOUT_S, Found, find_out, read_health
from enginebay.backends.openai_http.server_stats import stats_from
from enginebay.errors import (
    BackendTimeout,
    ConfigError,
    DeadlineExceeded,
    EngineBayError,
    NotStarted,
    StartFailed,
    UnsupportedFeature,
    UpstreamError,
)
from enginebay.types import (
    BackendInfo,
    Chat,
    EngineStats,
    Feature,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
    TokenIds,
)
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_stream import HttpStream
from enginebay.wire.http_types import HttpTimeouts
from enginebay.wire.openai_decode import AnswerDecoder
from enginebay.wire.openai_dialects import DIALECTS, ENGINEBAY, Dialect
from enginebay.wire.openai_encode import PATHS, encode_request, encode_tokenize, form_of, is_streamed
from enginebay.wire.openai_errors import error_from_response
from enginebay.wire.prometheus_text import parse_metrics
from enginebay.wire.sse import SseParser

_POLL_INTERVAL_S = 0.1
_MAX_ERROR_BODY_BYTES = 1024 * 1024


class OpenAIHttpBackend:
    def __init__(self, context: BackendContext) -> None:
        self._options: OpenAIHttpOptions = context.options
        self._clock = context.clock
        self._name = context.name
        self._url = _server_url(context.url or "")
        self._timeouts = HttpTimeouts(
            first_byte_s=self._options.first_byte_timeout_s, idle_s=self._options.idle_timeout_s
        )
        # Health, metrics and tokens have connections of their own: they answer while every other one is busy.
        self._data = self._client(max_connections=self._options.max_connections)
        self._control = self._client(max_connections=4)
        self._dialect: Dialect = ENGINEBAY if self._options.dialect == "auto" else DIALECTS[self._options.dialect]
        self._is_started = False
        served_model_name = context.settings.get("served_model_name")
        self._info = BackendInfo(
            kind="openai_http",
            name=context.name,
            model=self._options.served_model_name or str(served_model_name or context.model),
            capabilities=self._dialect.capabilities,
        )

    @property
    def info(self) -> BackendInfo:
        return self._info

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Wait until the server says it is ready, then learn what it is."""
        await self._wait_until_ready()
        try:
            found = await find_out(self._control, self._options, model=self._info.model, backend=self._name)
        except StartFailed:
            raise
        except EngineBayError as error:
            raise StartFailed(f"{self._name}: {error}", backend=self._name) from error
        self._take_in(found)
        self._is_started = True

    async def aclose(self) -> None:
        self._is_started = False
        await self._data.aclose()
        await self._control.aclose()

    async def health(self) -> Health:
        return await read_health(self._control, self._options)

    async def stats(self) -> EngineStats:
        response = await self._control.request("GET", "/metrics", timeout_s=PROBE_TIMEOUT_S)
        if response.status == 404:
            return EngineStats()
        if response.status != 200:
            raise error_from_response(response.status, response.body, backend=self._name, headers=response.headers)
        return stats_from(parse_metrics(response.body.decode("utf-8", "replace")))

    async def open_connections(self, num_connections: int) -> None:
        """Connect in advance, so that no request of a measurement pays for it."""
        await self._data.open(num_connections)

    # ---------------------------------------------------------------- requests

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        if not self._is_started:
            raise NotStarted("call start() first", backend=self._name)
        body = encode_request(
            request,
            model=self._info.model,
            dialect=self._dialect,
            backend=self._name,
            return_token_ids=self._options.return_token_ids and Feature.OUTPUT_TOKEN_IDS in self._info.capabilities,
            extra_body=self._options.extra_body,
        )
        return self._chunks(request, body)

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, TokenIds):
            return prompt.token_ids
        if isinstance(prompt, Chat):
            _demand_plain(prompt, backend=self._name)
        response = await self._control.request(
            "POST",
            "/tokenize",
            body=encode_tokenize(prompt, model=self._info.model),
            headers=JSON_HEADERS,
            timeout_s=PROBE_TIMEOUT_S,
        )
        if response.status != 200:
            raise error_from_response(response.status, response.body, backend=self._name, headers=response.headers)
        try:
            return msgspec.json.decode(response.body, type=_Tokenized).tokens
        except msgspec.DecodeError as error:
            raise UpstreamError(f"/tokenize answered with no tokens: {error}", backend=self._name) from error

    async def _chunks(self, request: GenerationRequest, body: bytes) -> AsyncGenerator[GenerationChunk, None]:
        decoder = AnswerDecoder(form_of(request), backend=self._name, num_alternatives=request.logprobs)
        stream: HttpStream | None = None
        try:
            stream = await self._send(request, body)
            if not is_streamed(request) or stream.headers.get("content-type", "").startswith("application/json"):
                answer = await stream.read(self._data.max_body_bytes)
                yield decoder.whole(answer.body, answer.received_at)
                return
            events = SseParser()
            async for data, received_at in stream:
                for chunk in decoder.feed(events.feed(data), received_at):
                    yield chunk
                if decoder.is_finished:
                    return
            for chunk in decoder.end(stream.received_at):
                yield chunk
        except BackendTimeout as error:
            if request.deadline_at is not None and self._clock.now() >= request.deadline_at:
                raise DeadlineExceeded(
                    "the deadline passed before the answer was finished", field="deadline_at"
                ) from error
            raise
        finally:
            # Synchronous: a consumer that was cancelled must not be kept waiting.
            if stream is not None:
                stream.release() if decoder.is_finished else stream.abort()

    async def _send(self, request: GenerationRequest, body: bytes) -> HttpStream:
        """Raises the error that a status other than 200 stands for."""
        path = PATHS[form_of(request)]
        headers = {**JSON_HEADERS, "x-request-id": request.request_id}
        stream = await self._data.stream("POST", path, body=body, headers=headers, timeouts=self._timeouts_of(request))
        if stream.status == 200:
            return stream
        answer = await stream.read(_MAX_ERROR_BODY_BYTES)
        raise error_from_response(answer.status, answer.body, backend=self._name, headers=answer.headers)

    def _timeouts_of(self, request: GenerationRequest) -> HttpTimeouts:
        if request.deadline_at is None:
            return self._timeouts
        remaining_s = request.deadline_at - self._clock.now()
        if remaining_s <= 0:
            raise DeadlineExceeded("the deadline had passed before the request was sent", field="deadline_at")
        return replace(self._timeouts, total_s=remaining_s)

    # ---------------------------------------------------------------- start

    async def _wait_until_ready(self) -> None:
        gives_up_at = self._clock.now() + self._options.start_timeout_s
        while True:
            health = await self.health()
            if health.state in (HealthState.READY, HealthState.DEGRADED):
                return  # what a degraded one refuses, the next step says better
            now = self._clock.now()
            if now >= gives_up_at:
                raise StartFailed(
                    f"{self._name}: the server at {self._url} was not ready within {self._options.start_timeout_s:g} s",
                    backend=self._name,
                    likely_cause=health.reason or health.state.value,
                )
            await self._clock.sleep_until(now + _POLL_INTERVAL_S)

    def _take_in(self, found: Found) -> None:
        self._dialect = found.dialect
        settings: dict[str, object] = {**found.engine_settings, "dialect": found.dialect.name}
        if found.owned_by is not None:
            settings["owned_by"] = found.owned_by
        if found.max_model_len is not None:
            settings["max_model_len"] = found.max_model_len
        self._info = replace(
            self._info,
            model=found.model,
            capabilities=found.capabilities,
            engine_version=found.engine_version,
            max_model_len=found.max_model_len,
            effective_settings=settings,
            simulated=found.simulated,
        )

    def _client(self, *, max_connections: int) -> HttpClient:
        options = self._options
        headers = dict(options.extra_headers)
        if options.api_key is not None:
            headers["authorization"] = f"Bearer {options.api_key.get_secret_value()}"
        return HttpClient(
            self._url,
            clock=self._clock,
            max_connections=max_connections,
            connect_timeout_s=options.connect_timeout_s,
            headers=headers,
            timeouts=self._timeouts,
            ssl_context=_ssl_context(options.ca_file),
            backend=self._name,
        )


class _Tokenized(msgspec.Struct):
    tokens: tuple[int, ...]


def _server_url(url: str) -> str:
    """Clients of the OpenAI API are given the address with `/v1`; both forms are meant to work."""
    return url.rstrip("/").removesuffix("/v1")


def _ssl_context(ca_file: str | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"{ca_file} cannot be read as certificates: {error}", path="options.ca_file") from error


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
