"""The server as one ASGI application: a table of routes, one place where errors become answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from secrets import token_hex
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from enginebay.backend import Backend
from enginebay.clock import Clock, MonotonicClock
from enginebay.errors import BackendOverloaded, ShuttingDown
from enginebay.gateway.asgi import Headers, Receive, Scope, Send
from enginebay.gateway.body import ClientGone
from enginebay.gateway.bounds import Bounds
from enginebay.gateway.capture import CaptureLife, TrafficCapture
from enginebay.gateway.doorkeeper import INFERENCE, METRICS, OpenDoor
from enginebay.gateway.exchange import Exchange
from enginebay.gateway.failures import (
    ErrorForm,
    detail_form,
    no_such_method,
    no_such_path,
    openai_form,
    respond_error,
    respond_shutdown,
)
from enginebay.gateway.hooks import GatewayHook, Hooks
from enginebay.gateway.lifecycle import BackendLife
from enginebay.gateway.logs import make_logger
from enginebay.gateway.models.one_backend import OneBackend
from enginebay.gateway.open_requests import OpenRequests
from enginebay.gateway.refusals import end_without_call
from enginebay.gateway.routes.chat import create_chat_completion
from enginebay.gateway.routes.completions import create_completion
from enginebay.gateway.routes.documents import docs, openapi
from enginebay.gateway.routes.generate import generate
from enginebay.gateway.routes.health import health, live
from enginebay.gateway.routes.metrics import metrics
from enginebay.gateway.routes.models import list_models, retrieve_model
from enginebay.gateway.routes.tokenize import tokenize
from enginebay.gateway.served import Served
from enginebay.monitoring import instrument
from enginebay.quantities import SIMULATED_HEADER
from enginebay.wire.openai_errors import wire_form

Handler = Callable[[Served, Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route:
    methods: tuple[str, ...]
    handler: Handler
    error_form: ErrorForm = openai_form
    scope: str | None = INFERENCE
    """What a client must be allowed to; None is open to everyone, also without a key."""
    makes_calls: bool = False
    """Whether whoever is let in has an outcome, even of what cannot be read."""


READING = ("GET", "HEAD")
ROUTES: Mapping[str, Route] = {
    "/v1/completions": Route(("POST",), create_completion, makes_calls=True),
    "/v1/chat/completions": Route(("POST",), create_chat_completion, makes_calls=True),
    "/v1/models": Route(READING, list_models),
    "/tokenize": Route(("POST",), tokenize),
    "/generate": Route(("POST", "GET"), generate, detail_form, makes_calls=True),
    "/health": Route(READING, health, detail_form, scope=None),
    "/health/ready": Route(READING, health, detail_form, scope=None),
    "/health/live": Route(READING, live, detail_form, scope=None),
    "/metrics": Route(READING, metrics, detail_form, scope=METRICS),
    "/openapi.json": Route(READING, openapi, scope=None),
    "/docs": Route(READING, docs, scope=None),
}
ONE_MODEL = Route(READING, retrieve_model)


def build_app(
    backend: Backend,
    *,
    served_name: str | None = None,
    bounds: Bounds | None = None,
    clock: Clock | None = None,
    log: FilteringBoundLogger | None = None,
    replica: str = "0",
    capture: TrafficCapture | None = None,
    hooks: Sequence[GatewayHook] = (),
) -> Gateway:
    """Serve one backend, not started yet: the application starts it in the background and closes it at the end.

    served_name: the name that clients use, else the backend's model. A guarded backend (`get_backend`) is expected.
    capture: where the traffic is written without its texts.
    """
    log, clock = log or make_logger(), clock or MonotonicClock()
    joined_hooks = Hooks(hooks if capture is None else [*hooks, capture], log)
    model = OneBackend(
        instrument(backend, clock=clock, replica=replica),
        BackendLife(backend, log, clock=clock),
        name=served_name or backend.info.model,
        replica=replica,
        hooks=joined_hooks,
        clock=clock,
    )
    open_requests = OpenRequests()
    served = Served(
        models=model,
        door=OpenDoor(),
        hooks=joined_hooks,
        bounds=bounds or Bounds(),
        log=log,
        clock=clock,
        is_ending=lambda: open_requests.has_ended,
    )
    parts = () if capture is None else (CaptureLife(capture, model),)
    return Gateway(served, open_requests, parts)


class Part(Protocol):
    """What lives as long as the server does: the models begin first and end last."""

    async def begin(self) -> None: ...

    async def end(self) -> None: ...


class Gateway:
    """The ASGI callable."""

    def __init__(self, served: Served, open_requests: OpenRequests, parts: Sequence[Part] = ()) -> None:
        """parts: in the order in which they begin; they end the other way round."""
        self.served = served
        self._parts = parts
        self._id_prefix = token_hex(8)
        self._serials = count()
        self._open_requests = open_requests
        self.start_failure: Exception | None = None
        """Why the application could not begin; everything that had begun has ended then."""

    def end_open_requests(self) -> None:
        """Answer what is in flight with ShuttingDown: streams as an event, others with 503. For a server that ends."""
        self._open_requests.end_all()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(
            scope,
            receive,
            send,
            bounds=self.served.bounds,
            fallback_id=f"{self._id_prefix}{next(self._serials):x}",
            base_headers=self._base_headers(),
            arrived_at=self.served.clock.now(),
        )
        route = self._route(exchange.path)
        if route is None:
            await no_such_path(exchange)
            return
        if scope["method"] not in route.methods:
            await no_such_method(exchange, route.methods)
            return
        try:
            with self._open_requests:
                self._demand_room(route)
                if route.scope is not None:
                    exchange.client = await self.served.door.let_in(exchange, route.scope)
                await self._handle(route, exchange)
        except ShuttingDown as error:
            self.served.num_errors_by_code[wire_form(error).code] += 1
            await respond_shutdown(exchange, error, form=route.error_form, log=self.served.log)
        except ClientGone as gone:
            self.served.log.info("client gone", request_id=exchange.request_id, path=exchange.path, how=str(gone))
        except Exception as error:  # noqa: BLE001 - the boundary: logged and answered
            self.served.num_errors_by_code[wire_form(error).code] += 1
            await respond_error(exchange, error, form=route.error_form, log=self.served.log)

    async def _handle(self, route: Route, exchange: Exchange) -> None:
        try:
            await route.handler(self.served, exchange)
        except BaseException as error:
            if route.makes_calls and not exchange.has_call:
                end_without_call(self.served, exchange, error)
            raise

    def _demand_room(self, route: Route) -> None:
        """A burst of requests does not keep anyone from /health and /metrics."""
        max_open = self.served.bounds.max_open_requests
        if route.scope == INFERENCE and self._open_requests.num_open > max_open:
            raise BackendOverloaded(f"the server answers {max_open} requests already: try again later")

    def _route(self, path: str) -> Route | None:
        return ROUTES.get(path) or (ONE_MODEL if path.startswith("/v1/models/") else None)

    def _base_headers(self) -> Headers:
        return [(SIMULATED_HEADER.encode(), b"1")] if self.served.models.is_simulated else []

    async def _live(self, receive: Receive, send: Send) -> None:
        """The backends start beside the server: it answers /health from the first moment."""
        await receive()
        begun: list[Part] = []
        try:
            self.served.models.begin()
            for part in self._parts:
                await part.begin()
                begun.append(part)
        except Exception as error:  # noqa: BLE001 - kept for whoever runs the server, and told
            self.start_failure = error
            await self._end(begun)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._end(begun)
        await send({"type": "lifespan.shutdown.complete"})

    async def _end(self, parts: Sequence[Part]) -> None:
        for part in reversed(parts):
            await part.end()
        await self.served.models.end()
