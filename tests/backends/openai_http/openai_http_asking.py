"""Asking a scripted server through the adapter."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from enginebay import get_backend
from enginebay.testing import ScriptedServer
from enginebay.types import (
    Chat,
    GenerationRequest,
    Message,
    SamplingParams,
    Text,
)

CHAT = Chat((Message("user", "hello there"),))


def request(prompt=None, max_tokens=4, **fields) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=max_tokens)
    return GenerationRequest(request_id="r1", prompt=prompt or Text("hello there"), sampling=sampling, **fields)


def run(main):
    async def with_no_task_left():
        await asyncio.wait_for(main(), 30)

    asyncio.run(with_no_task_left())


@asynccontextmanager
async def serving(script=None, *, clock=None, options=None, **server_settings):
    """A scripted server and a started backend in front of it."""
    async with ScriptedServer(script, clock=clock, **server_settings) as server:
        backend = get_backend("openai_http", url=server.url, model="scripted", clock=clock, options=options)
        async with backend:
            yield server, backend


def connections(backend):
    data = backend.inner._data
    return data.num_open, data.num_idle, data.num_waiting


async def settled(condition):
    for _ in range(200_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to hold")
