"""What the server's own path costs: an instant backend behind it, a bare client in front.

    python benchmarks/server_path.py [--seconds 4] [--out benchmarks/results/server_path.json]

The server is a process of its own; its CPU time is read from the operating system before and after each load, so that
the client and other work on the machine do not count. `bare` is a plain ASGI application that sends an answer of the
same size under the same server: the part that is not ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import psutil
import uvicorn
import uvloop

from enginebay.gateway.app import build_app
from enginebay.gateway.logs import make_logger
from enginebay.guard import GuardedBackend
from enginebay.statistics.percentiles import percentile
from enginebay.types import (
    BackendInfo,
    Capabilities,
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    Usage,
)

TOKENS_PER_SECOND = 20


class InstantBackend:
    """Gives every token at once, or where min_p is set all streams one token in each tick of 1/20 s."""

    def __init__(self) -> None:
        capabilities = Capabilities(features=frozenset(Feature))
        self.info = BackendInfo(kind="instant", name="instant", model="m", capabilities=capabilities)

    async def start(self) -> None:
        self._tick: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ticking = asyncio.create_task(self._run_ticks())

    async def _run_ticks(self) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while True:
            next_at += 1 / TOKENS_PER_SECOND
            await asyncio.sleep(next_at - loop.time())
            tick, self._tick = self._tick, loop.create_future()
            tick.set_result(None)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        num_tokens = request.sampling.max_tokens
        if request.delivery == "final":
            yield self._last(num_tokens, " token" * num_tokens)
            return
        for index in range(num_tokens - 1):
            if request.sampling.min_p:
                await self._tick
            yield GenerationChunk(text=" token", token_ids=(index,), num_tokens=1, received_at=time.monotonic())
        yield self._last(num_tokens, " token")

    def _last(self, num_tokens: int, text: str) -> GenerationChunk:
        now, usage = time.monotonic(), Usage(8, num_tokens)
        return GenerationChunk(text=text, num_tokens=1, received_at=now, usage=usage, finish_reason=FinishReason.LENGTH)

    async def health(self) -> Health:
        return Health(HealthState.READY)

    async def stats(self) -> EngineStats:
        return EngineStats()

    async def aclose(self) -> None:
        self._ticking.cancel()


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body and answers with 350 bytes."""
    if scope["type"] != "http":
        return
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"350")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * 350})


def run_server(fd: int, kind: str) -> None:
    app = bare if kind == "bare" else build_app(GuardedBackend(InstantBackend()), log=make_logger(level="error"))
    lifespan = "off" if kind == "bare" else "on"
    config = uvicorn.Config(
        app, http="httptools", ws="none", loop="none", access_log=False, log_level="error", lifespan=lifespan
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[socket.socket(fileno=fd)]))


# ---------------------------------------------------------------- the client


class Connection(asyncio.Protocol):
    """Sends one request again and again until it is told to stop; counts answers and events."""

    def __init__(self, request: bytes, load: Load) -> None:
        self._request, self._load = request, load

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def _send(self) -> None:
        self._received = b""
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._load.num_events += data.count(b"data: {")
        self._received = self._received[-8:] + data if self._load.streams else self._received + data
        if self._is_complete():
            self._load.num_answers += 1
            self._load.latencies_s.append(time.perf_counter() - self._sent_at)
            self._transport.close() if self._load.is_over else self._send()

    def _is_complete(self) -> bool:
        if self._load.streams:
            return self._received.endswith(b"0\r\n\r\n")
        head, _, body = self._received.partition(b"\r\n\r\n")
        length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
        assert head.startswith(b"HTTP/1.1 200"), self._received
        return len(body) == int(length)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.num_open -= 1
        if not self._load.num_open:
            self._load.all_closed.set()


class Load:
    def __init__(self, fields: dict[str, Any], num_connections: int) -> None:
        self.fields, self.num_connections = fields, num_connections
        self.streams = bool(fields.get("stream"))
        self.num_answers = self.num_events = 0
        self.num_open = num_connections
        self.latencies_s: list[float] = []
        self.is_over = False
        self.all_closed = asyncio.Event()

    async def run(self, port: int, seconds: float) -> float:
        """Seconds that it took, the answers that ran over included."""
        body = json.dumps(
            {"model": "m", "prompt": "eight words make the prompt of this request", **self.fields}
        ).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        )
        request = f"{head}\r\n\r\n".encode() + body
        loop = asyncio.get_running_loop()
        began_at = time.perf_counter()
        for _ in range(self.num_connections):
            await loop.create_connection(lambda: Connection(request, self), "127.0.0.1", port)
        await asyncio.sleep(seconds)
        self.is_over = True
        await self.all_closed.wait()
        return time.perf_counter() - began_at


async def measure(
    server: psutil.Process, port: int, fields: dict[str, Any], *, num_connections: int, seconds: float
) -> dict[str, float]:
    await Load(fields, num_connections).run(port, 0.3)  # warm
    load = Load(fields, num_connections)
    before = server.cpu_times()
    duration_s = await load.run(port, seconds)
    after = server.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    figures = {
        "num_connections": num_connections,
        "duration_s": duration_s,
        "num_answers": load.num_answers,
        "requests_per_s": load.num_answers / duration_s,
        "latency_p50_s": percentile(load.latencies_s, 50),
        "latency_p99_s": percentile(load.latencies_s, 99),
        "server_cpu_ratio": cpu_s / duration_s,
        "server_cpu_us_per_request": cpu_s / load.num_answers * 1e6,
    }
    if load.streams:
        figures["chunks_per_s"] = load.num_events / duration_s
        figures["server_cpu_us_per_chunk"] = cpu_s / load.num_events * 1e6
    return figures


async def measure_all(seconds: float) -> dict[str, Any]:
    plain = {"max_tokens": 16}
    stream = {"max_tokens": 64, "stream": True}
    counted = {**stream, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    paced = {**counted, "max_tokens": 2 * TOKENS_PER_SECOND, "min_p": 0.1}
    loads = {
        "bare_64_connections": ("bare", plain, 64),
        "bare_1_connection": ("bare", plain, 1),
        "not_streamed_64_connections": ("ours", plain, 64),
        "not_streamed_1_connection": ("ours", plain, 1),
        "streamed_instantly_64_connections": ("ours", stream, 64),
        "streamed_instantly_with_usage_64_connections": ("ours", counted, 64),
        "streamed_300_at_20_tokens_per_s": ("ours", paced, 300),
    }
    results: dict[str, Any] = {}
    for name, (kind, fields, num_connections) in loads.items():
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            fd, port = listener.fileno(), listener.getsockname()[1]
            command = [sys.executable, __file__, "--serve", str(fd), "--kind", kind]
            process = subprocess.Popen(command, pass_fds=(fd,))  # noqa: ASYNC220 - nothing else runs yet
            try:
                results[name] = await measure(
                    psutil.Process(process.pid), port, fields, num_connections=num_connections, seconds=seconds
                )
            finally:
                process.terminate()
                process.wait(10)
        print(f"{name:46}", "  ".join(f"{key} {value:.6g}" for key, value in results[name].items()), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "server_path.json")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="ours", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        run_server(arguments.serve, arguments.kind)
        return
    machine = {"num_cpus": os.cpu_count(), "python": platform.python_version(), "load_before": os.getloadavg()[0]}
    results = uvloop.run(measure_all(arguments.seconds))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": machine, "loads": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
