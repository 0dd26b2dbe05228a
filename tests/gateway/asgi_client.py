"""One request to an ASGI application in this loop, without a socket: the test decides when the client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from enginebay.gateway.app import Gateway


class AsgiExchange:
    """Runs at once, as a task. `messages`: what the application sent."""

    def __init__(
        self,
        app: Gateway,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.messages: list[MutableMapping[str, Any]] = []
        self.on_message: Callable[[MutableMapping[str, Any]], None] = lambda message: None
        self._body: bytes | None = body
        self._has_left = asyncio.Event()
        self._changed = asyncio.Event()
        names = {"content-type": "application/json", **(headers or {})}
        target, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": target,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in names.items()],
            "client": (address, 50_000),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> MutableMapping[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._has_left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.messages.append(message)
        self.on_message(message)
        self._changed.set()
        await asyncio.sleep(0)

    def leave(self) -> None:
        self._has_left.set()

    async def next_message(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    def header(self, name: str) -> str | None:
        return next((value.decode() for key, value in self.messages[0]["headers"] if key == name.encode()), None)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of each event, `[DONE]` left out."""
        lines = [line[6:] for line in self.body.decode().split("\n\n") if line]
        return [json.loads(line) for line in lines if line != "[DONE]"]


def post(app: Gateway, path: str, fields: object, **others: Any) -> AsgiExchange:
    return AsgiExchange(app, "POST", path, json.dumps(fields).encode(), **others)


def get(app: Gateway, path: str, **others: Any) -> AsgiExchange:
    return AsgiExchange(app, "GET", path, **others)


async def settle() -> None:
    """Until what can run in this loop has run."""
    for _ in range(50):
        await asyncio.sleep(0)


@asynccontextmanager
async def living(app: Gateway, *, waits_until_ready: bool = True) -> AsyncGenerator[Gateway, None]:
    """The application between its start and its end."""
    told: asyncio.Queue[str] = asyncio.Queue()
    answers: asyncio.Queue[str] = asyncio.Queue()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": await told.get()}

    async def send(message: MutableMapping[str, Any]) -> None:
        answers.put_nowait(message["type"])

    life = asyncio.create_task(app({"type": "lifespan"}, receive, send))
    told.put_nowait("lifespan.startup")
    assert await answers.get() == "lifespan.startup.complete"
    try:
        if waits_until_ready:
            await app.served.models.wait_until_ready()
        yield app
    finally:
        told.put_nowait("lifespan.shutdown")
        assert await answers.get() == "lifespan.shutdown.complete"
        await life
