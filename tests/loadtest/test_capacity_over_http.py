"""The search over a real loopback connection: a server that serves four at a time, 40 ms each."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from loadtest_fakes import ENVIRONMENT, SilentWatcher, planned

from enginebay import get_backend
from enginebay.backend import Backend
from enginebay.clock import MonotonicClock
from enginebay.loadtest.capacity.levels import CapacityLevels
from enginebay.loadtest.capacity.result import CapacityResult
from enginebay.loadtest.capacity.session import CapacityBench, Searched
from enginebay.loadtest.capacity.start_search import CapacitySettings, SearchTools
from enginebay.loadtest.measurement import BenchSettings, Subject
from enginebay.loadtest.plan import Load, PlannedLoad
from enginebay.testing.known_capacity import KnownQueue

QUEUE = KnownQueue(num_servers=4, service_s=0.04)
MAY_WAIT_S = 0.02
ANSWER = (
    {"choices": [{"index": 0, "text": "xy", "finish_reason": None}]},
    {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
)
MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]})
COMMON = {"id": "1", "object": "text_completion", "created": 1, "model": "m"}


class QueueServer:
    def __init__(self) -> None:
        self._free_at = [0.0] * QUEUE.num_servers

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
                writer.write(await self._answer(head))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        if not head.startswith(b"POST"):
            return response(
                json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}), "application/json"
            )
        loop = asyncio.get_running_loop()
        first = min(range(QUEUE.num_servers), key=self._free_at.__getitem__)
        ends_at = self._free_at[first] = max(loop.time(), self._free_at[first]) + QUEUE.service_s
        await asyncio.sleep(ends_at - loop.time())
        events = [f"data: {json.dumps(COMMON | event)}\n\n" for event in ANSWER]
        return response("".join([*events, "data: [DONE]\n\n"]), "text/event-stream")


def response(body: str, content_type: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@contextmanager
def served() -> Iterator[str]:
    """In a thread of its own, so that the client's loop does not delay it."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(QueueServer().handle, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()


def plan_probe(rate_rps: float, num_requests: int, *, start_index: int, number: int, session: int) -> PlannedLoad:
    offsets = np.cumsum(np.random.default_rng([start_index, number]).exponential(1 / rate_rps, num_requests))
    requests = tuple(planned(index, offset_s=float(offset)) for index, offset in enumerate(offsets))
    return PlannedLoad(load=Load(rate=rate_rps, arrivals="poisson"), requests=requests)


@pytest.mark.slow
def test_the_search_over_http_finds_the_capacity_of_a_known_queue(tmp_path: Path) -> None:
    async def main(url: str) -> CapacityResult:
        clock = MonotonicClock()

        @asynccontextmanager
        async def opened() -> AsyncGenerator[Backend, None]:
            backend = get_backend(
                "openai_http", name="queue", model="m", url=url, clock=clock, options={"dialect": "vllm"}
            )
            await backend.start()
            try:
                yield backend
            finally:
                await backend.aclose()

        levels = CapacityLevels(ttft_s=QUEUE.service_s + MAY_WAIT_S, percentile=90)
        tools = SearchTools(
            plan_probe=plan_probe,
            settings=CapacitySettings(levels=levels, probe_s=7, max_probes=6, precision=0.0, start_rps=20.0),
            bench_settings=BenchSettings(num_client_processes=1),
            clock=clock,
            watcher=SilentWatcher(),
        )
        subject = Subject(label="queue", kind="openai_http", open=opened)
        searched = Searched(model="m", workload="words", seed=0)
        return await CapacityBench([subject], tools, searched=searched, out=tmp_path, environment=ENVIRONMENT).run()

    with served() as url:
        (found,) = asyncio.run(main(url)).capacities
    assert found.outcome == "found", [probe.invalid_reasons for probe in found.probes]
    assert found.rate_rps == pytest.approx(QUEUE.capacity_rps(MAY_WAIT_S, allowed_ratio=0.1), rel=0.12)
