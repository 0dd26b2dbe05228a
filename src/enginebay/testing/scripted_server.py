"""A tiny HTTP/1.1 server on loopback that plays a scripted engine behind the OpenAI API. It computes nothing.

    async with ScriptedServer(Script(num_tokens=16, token_gap_s=0.02)) as server:
        ...                                     # server.url, server.received, server.num_live_streams

Also from a shell, as an instant counterpart for measuring clients:

    python -m enginebay.testing.scripted_server --port 8100 --tokens 16

Every answer carries the header `x-enginebay-simulated`, and `/metrics` the metric `enginebay_simulated`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Literal

import msgspec

from enginebay import quantities
from enginebay.clock import Clock, MonotonicClock
from enginebay.testing.server_answers import Answer, encode, error_response, render, response
from enginebay.testing.server_protocol import ReceivedRequest, ServerConnection
from enginebay.testing.server_requests import count_words, read_asked
from enginebay.testing.server_script import Script

DEFAULT_MODEL = "scripted"
_NUM_REQUESTS_KEPT = 1000


class ScriptedServer:
    """Speaks /v1/completions, /v1/chat/completions, /v1/models, /tokenize, /version, /health and /metrics."""

    def __init__(
        self,
        script: Script | Callable[[ReceivedRequest], Script] | None = None,
        *,
        model: str = DEFAULT_MODEL,
        owned_by: str = "enginebay",
        max_model_len: int | None = 4096,
        api_key: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """script: what every generation does, or a function that decides for each request. May be replaced later."""
        self.script = script or Script()
        self.model = model
        self.owned_by = owned_by
        self.max_model_len = max_model_len
        self.api_key = api_key
        self.health_status = 200
        self.more_metrics = ""
        """Exposition text that /metrics adds to its own."""
        self.received: deque[ReceivedRequest] = deque(maxlen=_NUM_REQUESTS_KEPT)
        self.num_generations = 0
        self.num_tokens = 0
        self.num_live_streams = 0
        self.num_cancelled = 0
        """Answers whose client went away before the end."""
        self.num_connections_made = 0
        self._clock = clock or MonotonicClock()
        self._connections: set[ServerConnection] = set()
        self._all_gone = asyncio.Event()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def num_connections(self) -> int:
        return len(self._connections)

    @property
    def generations(self) -> list[ReceivedRequest]:
        """The generation requests among those received."""
        return [request for request in self.received if request.path in _FORMS]

    async def start(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen. port 0 is one that is free, and the same one again after `aclose`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ServerConnection(self, self._clock), host, port or self.port, backlog=4096
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Close every connection at once, as a killed server would. It can be started again on the same port."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()
        self._server = None
        if self._connections:
            await self._all_gone.wait()

    def disconnect_all(self) -> None:
        for connection in list(self._connections):
            connection.close()

    async def __aenter__(self) -> ScriptedServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # ---------------------------------------------------------------- told by the connections

    def connected(self, connection: ServerConnection) -> None:
        self.num_connections_made += 1
        self._connections.add(connection)
        self._all_gone.clear()

    def disconnected(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()

    def answer(self, request: ReceivedRequest) -> Answer:
        self.received.append(request)
        if self.api_key is not None and not self._is_authorised(request):
            return _at_once(error_response(401, "wrong API key", code="invalid_api_key"))
        if request.path in _FORMS:
            return self._generate(request)
        return _at_once(self._answer_other(request))

    def _is_authorised(self, request: ReceivedRequest) -> bool:
        return not request.path.startswith("/v1") or request.headers.get("authorization") == f"Bearer {self.api_key}"

    def _generate(self, request: ReceivedRequest) -> Answer:
        try:
            asked = read_asked(request.body, _FORMS[request.path], default_model=self.model)
        except msgspec.DecodeError as error:
            return _at_once(error_response(400, str(error), code="invalid_request"))
        if asked.model != self.model:
            problem = f"The model `{asked.model}` does not exist."
            return _at_once(error_response(404, problem, code="model_not_found", param="model"))
        self.num_generations += 1
        answer = render(self.script if isinstance(self.script, Script) else self.script(request), asked)
        self.num_tokens += answer.num_tokens
        return answer

    def _answer_other(self, request: ReceivedRequest) -> bytes:
        match request.path:
            case "/health" | "/health/ready":
                return response(self.health_status, b'{"status":"healthy"}')
            case "/version":
                return response(200, b'{"version":"scripted"}')
            case "/v1/models":
                return response(200, encode({"object": "list", "data": [self._model_entry()]}))
            case "/metrics":
                return response(200, self._metrics().encode(), content_type="text/plain; version=0.0.4")
            case "/tokenize":
                return response(200, encode({"tokens": list(range(count_words(request.body)))}))
            case _:
                return error_response(404, f"no such path: {request.path}", code="not_found")

    def _model_entry(self) -> object:
        entry: dict[str, object] = {"id": self.model, "object": "model", "created": 0, "owned_by": self.owned_by}
        return entry if self.max_model_len is None else {**entry, "max_model_len": self.max_model_len}

    def _metrics(self) -> str:
        values = {
            quantities.SIMULATED_METRIC: 1,
            quantities.BATCH_SIZE.prometheus_name: self.num_live_streams,
            quantities.TOKENS_GENERATED.prometheus_name: self.num_tokens,
        }
        return "".join(f"{name} {value}\n" for name, value in values.items()) + self.more_metrics


_FORMS: Mapping[str, Literal["completions", "chat"]] = {
    "/v1/completions": "completions",
    "/v1/chat/completions": "chat",
}


def _at_once(data: bytes) -> Answer:
    return Answer(((0.0, data),))


def main() -> None:
    arguments = _arguments()
    script = Script(
        num_tokens=arguments.tokens,
        tokens_per_event=arguments.tokens_per_event,
        first_token_after_s=arguments.first_token_after_s,
        token_gap_s=arguments.token_gap_s,
    )
    server = ScriptedServer(script, model=arguments.model)

    async def serve() -> None:
        await server.start(host=arguments.host, port=arguments.port)
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().create_future()

    try:
        import uvloop

        uvloop.run(serve())
    except ImportError:
        asyncio.run(serve())
    except KeyboardInterrupt:
        pass


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Play a scripted engine behind the OpenAI API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tokens", type=int, default=None, help="of each answer; else the request's max_tokens")
    parser.add_argument("--tokens-per-event", type=int, default=1)
    parser.add_argument("--first-token-after-s", type=float, default=0.0)
    parser.add_argument("--token-gap-s", type=float, default=0.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
