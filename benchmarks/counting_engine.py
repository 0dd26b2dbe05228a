"""An engine that counts what it is asked, at a made-up speed: the witness of what a gateway lets through. Simulated."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass
from random import Random
from typing import Any

NUM_PROMPT_TOKENS = 8
_HEAD_END = b"\r\n\r\n"
_MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "counting"}]}


@dataclass(slots=True)
class Counts:
    """Of the requests whose prompt begins with one word."""

    num_requests: int = 0
    num_running: int = 0
    most_running: int = 0
    num_tokens: int = 0
    """Of prompts and answers, of the requests that were answered to their end."""
    num_left: int = 0
    """Requests that were given up before their answer."""


class CountingEngine:
    """Answers each completion after a random time with a random number of tokens, and keeps count by prompt."""

    def __init__(self, *, seed: int = 0, mean_s: float = 0.02) -> None:
        self.counts: dict[str, Counts] = defaultdict(Counts)
        self._rng, self._mean_s = Random(seed), mean_s
        self._answering: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CountingEngine:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.url = "http://{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def answer(self, connection: _Connection, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST /v1/completions"):
            is_known = head.startswith((b"GET /v1/models", b"GET /health"))
            connection.send(200 if is_known else 404, _MODELS if is_known else {})
            return
        task = asyncio.create_task(self._complete(connection, json.loads(body)))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        connection.answering = task

    async def _complete(self, connection: _Connection, fields: dict[str, Any]) -> None:
        counts = self.counts[str(fields["prompt"]).split(maxsplit=1)[0]]
        counts.num_requests += 1
        counts.num_running += 1
        counts.most_running = max(counts.most_running, counts.num_running)
        num_tokens = self._rng.randint(1, fields["max_tokens"])
        try:
            await asyncio.sleep(self._rng.uniform(0, 2 * self._mean_s))
        except asyncio.CancelledError:
            counts.num_left += 1
            raise
        finally:
            counts.num_running -= 1
        counts.num_tokens += NUM_PROMPT_TOKENS + num_tokens
        connection.send(200, _completion(num_tokens))


class _Connection(asyncio.Protocol):
    def __init__(self, engine: CountingEngine) -> None:
        self._engine, self._received = engine, b""
        self.answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answering is not None:
            self.answering.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (parts := _request(self._received)) is not None:
            head, body, self._received = parts
            self._engine.answer(self, head, body)

    def send(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} .\r\ncontent-type: application/json\r\nx-enginebay-simulated: 1\r\n"
        self._transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def _request(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Head, body, and what follows; None where it is not whole yet."""
    head, found, rest = data.partition(_HEAD_END)
    if not found:
        return None
    length = content_length(head)
    return (head, rest[:length], rest[length:]) if len(rest) >= length else None


def content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _completion(num_tokens: int) -> dict[str, object]:
    usage = {
        "prompt_tokens": NUM_PROMPT_TOKENS,
        "completion_tokens": num_tokens,
        "total_tokens": NUM_PROMPT_TOKENS + num_tokens,
    }
    choice = {"index": 0, "text": " token" * num_tokens, "finish_reason": "length", "logprobs": None}
    return {
        "id": "cmpl-0",
        "object": "text_completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
