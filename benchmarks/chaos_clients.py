"""Clients of every kind for a gateway under chaos: patient ones, slow ones, and those who leave at any moment."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

GIVE_UP_S = 60.0
"""An answer that takes longer never comes: that is a defect, and it is told as `hung`."""
SMALL_BUFFER_BYTES = 2048

Ending = Literal["answered", "streamed", "told", "cut", "left", "hung"]
"""told: an error in words, with its status or in the stream. cut: the connection ended without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one client will do."""

    request_id: str
    key: str
    is_streamed: bool
    max_tokens: int
    leaves_after_s: float | None
    pause_s: float
    """Between two reads."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """What it saw of its answer."""

    plan: Plan
    ending: Ending = "hung"
    status: int = 0
    num_tokens: int = 0
    """Pieces of text that came, one for each token; of a finished answer what its usage says."""
    error_code: str | None = None


def draw_plan(rng: Random, serial: int, keys: Sequence[str]) -> Plan:
    leaves = rng.random() < 0.2
    return Plan(
        request_id=f"chaos-{serial}",
        key=rng.choice(keys),
        is_streamed=rng.random() < 0.7,
        max_tokens=rng.randint(1, 40),
        leaves_after_s=rng.choice((0.0, rng.uniform(0, 0.3))) if leaves else None,
        pause_s=0.05 if rng.random() < 0.05 else 0.0,
    )


async def ask(plan: Plan, port: int) -> Seen:
    """Never raises what the server may be at fault for: it is in `Seen`."""
    seen = Seen(plan=plan)
    try:
        await _exchange(plan, seen, port)
    except TimeoutError:
        seen.ending = "hung" if plan.leaves_after_s is None else "left"
    except (ConnectionError, asyncio.IncompleteReadError, EOFError):
        seen.ending = "cut"
    return seen


async def _exchange(plan: Plan, seen: Seen, port: int) -> None:
    reader, writer = await _connected(plan, port)
    try:
        writer.write(_request(plan))
        async with asyncio.timeout(GIVE_UP_S if plan.leaves_after_s is None else plan.leaves_after_s):
            await _read(plan, seen, reader)
    finally:
        writer.transport.abort()


async def _read(plan: Plan, seen: Seen, reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    seen.status = int(head.split(b" ", 2)[1])
    if b"text/event-stream" in head:
        await _read_stream(plan, seen, reader)
    else:
        await _read_whole(seen, reader, head)


async def _connected(plan: Plan, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket()
    if plan.pause_s:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        return await asyncio.open_connection(sock=connection, limit=SMALL_BUFFER_BYTES if plan.pause_s else 2**16)
    except BaseException:
        connection.close()
        raise


def _request(plan: Plan) -> bytes:
    fields: dict[str, object] = {
        "model": "m",
        "prompt": f"question of {plan.request_id}",
        "max_tokens": plan.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    if plan.is_streamed:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(fields).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: chaos\r\ncontent-type: application/json\r\nconnection: close\r\n"
        f"x-request-id: {plan.request_id}\r\nauthorization: Bearer {plan.key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _read_whole(seen: Seen, reader: asyncio.StreamReader, head: bytes) -> None:
    length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
    answer = json.loads(await reader.readexactly(length))
    if "error" in answer:
        seen.ending, seen.error_code = "told", answer["error"]["code"]
    else:
        seen.ending, seen.num_tokens = "answered", answer["usage"]["completion_tokens"]


async def _read_stream(plan: Plan, seen: Seen, reader: asyncio.StreamReader) -> None:
    while True:
        line = await reader.readline()
        if not line:
            raise EOFError
        if plan.pause_s:
            await asyncio.sleep(plan.pause_s / 20)
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            seen.ending = "streamed" if seen.error_code is None else "told"
            return
        event = json.loads(line[6:])
        if "error" in event:
            seen.error_code = event["error"]["code"]
        elif event.get("usage"):
            seen.num_tokens = event["usage"]["completion_tokens"]
        else:
            seen.num_tokens += len(event["choices"])
