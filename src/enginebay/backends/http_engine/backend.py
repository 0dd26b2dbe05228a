"""An engine behind an HTTP server as a `Backend`. It computes nothing: bytes out, bytes in, typed chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import TypeVar

from enginebay.backend import BackendContext
from enginebay.backends.http_engine.api import (
    CountsTokensOverHttp,
    EngineApi,
    HttpCall,
    ResetsPrefixCacheOverHttp,
)
from enginebay.backends.http_engine.kept_answer import KeptAnswer
from enginebay.backends.http_engine.options import HttpOptions
from enginebay.backends.http_engine.server import OwnedServer
from enginebay.errors import (
    BackendTimeout,
    BackendUnavailable,
    DeadlineExceeded,
    EngineBayError,
    EngineDied,
    NotStarted,
    StartFailed,
    UnsupportedFeature,
)
from enginebay.types import (
    BackendInfo,
    Capabilities,
    EngineStats,
    Feature,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
)
from enginebay.wire.http_client import HttpClient, SendListener
from enginebay.wire.http_stream import HttpStream
from enginebay.wire.http_types import HttpTimeouts

T = TypeVar("T")

_POLL_INTERVAL_S = 0.1
_LAST_BREATH_S = 0.5
_MAX_ERROR_BODY_BYTES = 1024 * 1024


class HttpEngineBackend:
    """One engine's API on one server: one that runs already (`context.url`), or one of our own (`server`)."""

    def __init__(
        self,
        context: BackendContext,
        *,
        kind: str,
        api: EngineApi,
        capabilities: Capabilities,
        model: str | None = None,
        server: OwnedServer | None = None,
        connect: Callable[[str, int], HttpClient] | None = None,
    ) -> None:
        """model: the name in requests, else the context's. connect(url, max_connections): how to reach the server."""
        self._context, self._api, self._server = context, api, server
        self._options: HttpOptions = context.options
        self._clock = context.clock
        self._name = context.name
        self._timeouts = HttpTimeouts(
            first_byte_s=self._options.first_byte_timeout_s, idle_s=self._options.idle_timeout_s
        )
        self._connect = connect or self._client
        self._url = context.url or ""
        self._data: HttpClient | None = None
        self._control: HttpClient | None = None
        if server is None:
            self._open_clients(self._url)
        self._is_started = False
        self._info = BackendInfo(kind=kind, name=context.name, model=model or context.model, capabilities=capabilities)

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def options(self) -> HttpOptions:
        return self._options

    @property
    def url(self) -> str:
        """Of the server; empty before one of our own was launched."""
        return self._url

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Launch the server if it is ours, wait until it says it is ready, then learn what it is."""
        if self._server is not None:
            self._url = await self._server.launch()
            self._open_clients(self._url)
        await self._unless_it_ends(self._wait_until_ready())
        try:
            self._info = await self._api.identify(self._client_of_control(), self._info)
        except StartFailed:
            raise
        except EngineBayError as error:
            raise StartFailed(f"{self._name}: {error}", backend=self._name) from error
        self._is_started = True

    async def aclose(self) -> None:
        self._is_started = False
        for client in (self._data, self._control):
            if client is not None:
                await client.aclose()
        if self._server is not None:
            await self._server.stop()

    async def health(self) -> Health:
        if self._server is not None and not self._server.is_alive:
            return Health(HealthState.DEAD, f"the engine {self._server.how_it_ended()}", is_final=True)
        return await self._api.health(self._client_of_control())

    async def stats(self) -> EngineStats:
        return await self._unless_dead(self._api.stats(self._client_of_control()))

    @property
    def num_in_flight(self) -> int:
        """Connections that a request holds or waits to be opened."""
        return 0 if self._data is None else self._data.num_open - self._data.num_idle

    async def open_connections(self, num_connections: int) -> None:
        """Connect in advance, so that no request of a measurement pays for it."""
        await self._client_of_data().open(num_connections)

    def add_send_listener(self, listener: SendListener) -> None:
        """Of generations alone; health and metrics have connections of their own."""
        self._client_of_data().add_send_listener(listener)

    def remove_send_listener(self, listener: SendListener) -> None:
        self._client_of_data().remove_send_listener(listener)

    # ---------------------------------------------------------------- requests

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        if not self._is_started:
            raise NotStarted("call start() first", backend=self._name)
        return self._chunks(request, self._api.call(request, self._info))

    def keep_answer(self, request: GenerationRequest, *, timeout_s: float | None) -> KeptAnswer:
        """The same request, encoded now and sent when told to; its answer stays bytes until it is decoded.

        timeout_s: of the whole answer, from the sending on.
        """
        if not self._is_started:
            raise NotStarted("call start() first", backend=self._name)
        call, client = self._api.call(request, self._info), self._client_of_data()
        head = client.head("POST", call.path, call.body, {**call.headers, "x-request-id": request.request_id})
        timeouts = self._timeouts if timeout_s is None else replace(self._timeouts, total_s=timeout_s)
        return KeptAnswer(
            call, head, client=client, timeouts=timeouts, error_of=self._api.error, guarded=self._unless_dead
        )

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if not isinstance(self._api, CountsTokensOverHttp):
            raise UnsupportedFeature(field=Feature.COUNT_TOKENS.value, backend=self._name)
        return await self._unless_dead(self._api.count_tokens(self._client_of_control(), prompt, self._info))

    async def reset_prefix_cache(self) -> None:
        if not isinstance(self._api, ResetsPrefixCacheOverHttp):
            raise UnsupportedFeature(field=Feature.RESET_PREFIX_CACHE.value, backend=self._name)
        await self._unless_dead(self._api.reset_prefix_cache(self._client_of_control()))

    async def _chunks(self, request: GenerationRequest, call: HttpCall) -> AsyncGenerator[GenerationChunk, None]:
        decoder = call.decoder
        stream: HttpStream | None = None
        try:
            stream = await self._send(request, call)
            if not call.is_streamed or stream.headers.get("content-type", "").startswith("application/json"):
                answer = await stream.read(self._client_of_data().max_body_bytes)
                yield decoder.whole(answer.body, answer.received_at)
                return
            async for data, received_at in stream:
                for chunk in decoder.feed(data, received_at):
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
        except BackendUnavailable as error:
            await self._demand_alive(error)
            raise
        finally:
            # Synchronous: a consumer that was cancelled must not be kept waiting.
            if stream is not None:
                stream.release() if decoder.is_finished else stream.abort()

    async def _unless_dead(self, answer: Awaitable[T]) -> T:
        """Raises EngineDied where our own server has ended, whatever that looks like from here."""
        try:
            return await answer
        except BackendUnavailable as error:
            await self._demand_alive(error)
            raise

    async def _demand_alive(self, error: BackendUnavailable) -> None:
        if self._server is not None and await _has_ended(self._server):
            raise EngineDied(f"the engine {self._server.how_it_ended()}", backend=self._name) from error

    async def _send(self, request: GenerationRequest, call: HttpCall) -> HttpStream:
        """Raises the error that a status other than 200 stands for."""
        headers = {**call.headers, "x-request-id": request.request_id}
        timeouts = self._timeouts_of(request)
        stream = await self._client_of_data().stream(
            "POST", call.path, body=call.body, headers=headers, timeouts=timeouts
        )
        if stream.status == 200:
            return stream
        answer = await stream.read(_MAX_ERROR_BODY_BYTES)
        raise self._api.error(answer.status, answer.body, answer.headers)

    def _timeouts_of(self, request: GenerationRequest) -> HttpTimeouts:
        if request.deadline_at is None:
            return self._timeouts
        remaining_s = request.deadline_at - self._clock.now()
        if remaining_s <= 0:
            raise DeadlineExceeded("the deadline had passed before the request was sent", field="deadline_at")
        return replace(self._timeouts, total_s=remaining_s)

    # ---------------------------------------------------------------- start

    async def _unless_it_ends(self, ready: Coroutine[None, None, None]) -> None:
        """Await `ready`, unless our own server ends before."""
        if self._server is None:
            await ready
            return
        starting = asyncio.ensure_future(ready)
        ending = asyncio.ensure_future(self._server.wait_ended())
        try:
            await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                raise self._server.start_failed(f"the engine {self._server.how_it_ended()} before it was ready")
            starting.result()
        finally:
            for task in (starting, ending):
                task.cancel()
            await asyncio.gather(starting, ending, return_exceptions=True)

    async def _wait_until_ready(self) -> None:
        gives_up_at = self._clock.now() + self._options.start_timeout_s
        while True:
            health = await self._api.health(self._client_of_control())
            if health.state in (HealthState.READY, HealthState.DEGRADED):
                break  # what a degraded one refuses, the next step says better
            now = self._clock.now()
            if now >= gives_up_at:
                raise self._not_ready(health)
            await self._clock.sleep_until(now + _POLL_INTERVAL_S)
        if self._server is not None:
            await self._server.check_listener()

    def _not_ready(self, health: Health) -> StartFailed:
        what = f"the server at {self._url} was not ready within {self._options.start_timeout_s:g} s"
        if self._server is not None:
            return self._server.start_failed(f"{what} ({health.reason or health.state.value})")
        return StartFailed(
            f"{self._name}: {what}", backend=self._name, likely_cause=health.reason or health.state.value
        )

    # ---------------------------------------------------------------- connections

    def _open_clients(self, url: str) -> None:
        # Health, metrics and tokens have connections of their own: they answer while every other one is busy.
        self._data = self._connect(url, self._options.max_connections)
        self._control = self._connect(url, 4)

    def _client(self, url: str, max_connections: int) -> HttpClient:
        return HttpClient(
            url,
            clock=self._clock,
            max_connections=max_connections,
            connect_timeout_s=self._options.connect_timeout_s,
            headers=self._options.headers(),
            timeouts=self._timeouts,
            ssl_context=self._options.ssl_context(),
            backend=self._name,
        )

    def _client_of_data(self) -> HttpClient:
        if self._data is None:
            raise NotStarted("the server was not launched yet", backend=self._name)
        return self._data

    def _client_of_control(self) -> HttpClient:
        if self._control is None:
            raise NotStarted("the server was not launched yet", backend=self._name)
        return self._control


async def _has_ended(server: OwnedServer) -> bool:
    """A connection breaks a moment before the end of its process is known."""
    if server.is_alive:
        ending = asyncio.ensure_future(server.wait_ended())
        try:
            await asyncio.wait({ending}, timeout=_LAST_BREATH_S)
        finally:
            ending.cancel()
    return not server.is_alive
