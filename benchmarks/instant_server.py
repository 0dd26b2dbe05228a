"""The cheapest server that speaks the OpenAI API: it reads requests and sends back the same answer. Simulated.

    python benchmarks/instant_server.py FD    # serves on this inherited listening socket

It does nothing for an answer, so that what is measured in front of it is not its own.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import cast

import uvloop

NUM_TOKENS = 16
_USAGE = {"prompt_tokens": 8, "completion_tokens": NUM_TOKENS, "total_tokens": 8 + NUM_TOKENS}
_COMMON = {"id": "cmpl-0", "created": 0, "model": "m"}


def _whole() -> bytes:
    choice = {"index": 0, "text": " token" * NUM_TOKENS, "finish_reason": "length", "logprobs": None}
    body = {**_COMMON, "object": "text_completion", "choices": [choice], "usage": _USAGE}
    return _answer(json.dumps(body).encode(), b"application/json")


def _streamed() -> bytes:
    events: list[dict[str, object]] = []
    for index in range(NUM_TOKENS):
        reason = "length" if index == NUM_TOKENS - 1 else None
        choice = {"index": 0, "text": " token", "finish_reason": reason, "logprobs": None}
        events.append({**_COMMON, "object": "text_completion", "choices": [choice]})
    events.append({**_COMMON, "object": "text_completion", "choices": [], "usage": _USAGE})
    body = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"
    return _answer(body, b"text/event-stream")


def _answer(body: bytes, content_type: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nx-enginebay-simulated: 1\r\ncontent-length: %d\r\n\r\n%b" % (
        content_type,
        len(body),
        body,
    )


WHOLE, STREAMED = _whole(), _streamed()
MODELS = _answer(b'{"object":"list","data":[{"id":"m","object":"model","owned_by":"instant"}]}', b"application/json")
HEALTHY = _answer(b'{"status":"ok"}', b"application/json")
ABSENT = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class InstantConnection(asyncio.Protocol):
    """Requests one after another, each with a content-length or without a body."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._end_of_request()) is not None:
            request, self._received = self._received[:end], self._received[end:]
            self.answer(request)

    def answer(self, request: bytes) -> None:
        self.transport.write(answer_to(request))

    def _end_of_request(self) -> int | None:
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        lower = self._received[:head_end].lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        end = head_end + 4 + length
        return end if len(self._received) >= end else None


def answer_to(request: bytes) -> bytes:
    if request.startswith(b"POST /v1/completions"):
        return STREAMED if b'"stream":true' in request else WHOLE
    if request.startswith(b"GET /v1/models"):
        return MODELS
    return HEALTHY if request.startswith(b"GET /health") else ABSENT


async def serve(fd: int) -> None:
    server = await asyncio.get_running_loop().create_server(InstantConnection, sock=socket.socket(fileno=fd))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
