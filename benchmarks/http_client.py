"""What our HTTP client and the openai_http backend cost, against an instant scripted server in its own process.

    python benchmarks/http_client.py [--seconds 4] [--users 64] [--out benchmarks/results/http_client.json]

Closed loop. CPU is this process's own (user and system), so that the figures mean something while the server shares
the machine; the server's own CPU for each request bounds what any client could reach against it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from pathlib import Path

import psutil
import uvloop

from enginebay import GenerationRequest, SamplingParams, Text, get_backend
from enginebay.clock import MonotonicClock
from enginebay.guard import GuardedBackend
from enginebay.wire.http_client import HttpClient
from enginebay.wire.openai_dialects import ENGINEBAY
from enginebay.wire.openai_encode import encode_request

NUM_TOKENS = 16
NUM_MANY_TOKENS = 128
PACED_GAP_S = 0.02
PROMPT = "the quick brown fox jumps over the lazy dog " * 4
JSON_HEADERS = {"content-type": "application/json"}
Once = Callable[[], Awaitable[int]]
"""One request; returns the number of pieces or chunks that it gave."""


def main() -> None:
    arguments = _arguments()
    report = {
        "what": "HTTP client and openai_http backend against an instant scripted server on loopback, closed loop",
        "machine": {"cpu": platform.processor() or platform.machine(), "num_cpus": os.cpu_count()},
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "event_loop": f"uvloop {uvloop.__version__}",
        "users": arguments.users,
        "tokens_per_answer": NUM_TOKENS,
        "ceiling_by_wrk": "wrk is installed but not used" if shutil.which("wrk") else "wrk is not installed",
        "cases": {},
    }
    with scripted_server() as (url, process):
        cases = uvloop.run(measure(url, process, seconds=arguments.seconds, users=arguments.users))
    with scripted_server("--token-gap-s", str(PACED_GAP_S)) as (url, process):
        cases["backend, paced"] = uvloop.run(
            measure_paced(url, process, seconds=arguments.seconds, users=arguments.users)
        )
    report["cases"] = cases
    report["cpu_us_per_coalesced_chunk"] = coalesced_chunk_us(cases)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


async def measure(url: str, server: psutil.Process, *, seconds: float, users: int) -> dict[str, dict[str, float]]:
    client = HttpClient(url, clock=MonotonicClock(), max_connections=users)
    await client.open(users)
    backend = get_backend("openai_http", url=url, model="scripted")
    async with backend:
        cases = {
            "client, not streamed": whole(client),
            "client, streamed": streamed(client),
            "backend, not streamed": generated(backend, delivery="final"),
            "backend, streamed": generated(backend),
            f"backend, streamed, {NUM_MANY_TOKENS} tokens": generated(backend, num_tokens=NUM_MANY_TOKENS),
        }
        figures = {name: await closed_loop(once, server, seconds=seconds, users=users) for name, once in cases.items()}
    await client.aclose()
    return figures


async def measure_paced(url: str, server: psutil.Process, *, seconds: float, users: int) -> dict[str, float]:
    async with get_backend("openai_http", url=url, model="scripted") as backend:
        return await closed_loop(generated(backend), server, seconds=seconds, users=users)


async def closed_loop(once: Once, server: psutil.Process, *, seconds: float, users: int) -> dict[str, float]:
    await asyncio.gather(*(once() for _ in range(users)))  # warm: connections, caches
    num_requests = num_chunks = 0
    ends_at = time.perf_counter() + seconds

    async def user() -> None:
        nonlocal num_requests, num_chunks
        while time.perf_counter() < ends_at:
            num_new_chunks = await once()
            num_chunks += num_new_chunks
            num_requests += 1

    began_at, cpu_began_s, server_began_s = time.perf_counter(), time.process_time(), cpu_s(server)
    await asyncio.gather(*(user() for _ in range(users)))
    duration_s = time.perf_counter() - began_at
    client_us = (time.process_time() - cpu_began_s) * 1e6
    server_us = (cpu_s(server) - server_began_s) * 1e6
    return {
        "requests_per_s": round(num_requests / duration_s, 1),
        "cpu_us_per_request": round(client_us / num_requests, 1),
        "cpu_us_per_chunk": round(client_us / num_chunks, 1),
        "chunks_per_request": round(num_chunks / num_requests, 2),
        "client_cpu_ratio": round(client_us / 1e6 / duration_s, 3),
        "server_cpu_us_per_request": round(server_us / num_requests, 1),
        "server_ceiling_requests_per_s": round(num_requests / (server_us / 1e6), 1),
    }


def coalesced_chunk_us(cases: dict[str, dict[str, float]]) -> float:
    """What one more chunk of the same read costs: from answers of two lengths."""
    short, long = cases["backend, streamed"], cases[f"backend, streamed, {NUM_MANY_TOKENS} tokens"]
    more_us = long["cpu_us_per_request"] - short["cpu_us_per_request"]
    return round(more_us / (NUM_MANY_TOKENS - NUM_TOKENS), 2)


def whole(client: HttpClient) -> Once:
    body = _body(delivery="final")

    async def once() -> int:
        response = await client.request("POST", "/v1/completions", body=body, headers=JSON_HEADERS)
        assert response.status == 200
        return 1

    return once


def streamed(client: HttpClient) -> Once:
    body = _body()

    async def once() -> int:
        stream = await client.stream("POST", "/v1/completions", body=body, headers=JSON_HEADERS)
        return sum([1 async for _ in stream])

    return once


def generated(backend: GuardedBackend, *, delivery: str = "stream", num_tokens: int = NUM_TOKENS) -> Once:
    request = _request(delivery, num_tokens)

    async def once() -> int:
        num_chunks = num_counted = 0
        async for chunk in backend.generate(request):
            num_chunks += 1
            num_counted += chunk.num_tokens or 0
        assert num_counted == num_tokens
        return num_chunks

    return once


def _request(delivery: str, num_tokens: int = NUM_TOKENS) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=num_tokens, temperature=0.0)
    return GenerationRequest(request_id="bench", prompt=Text(PROMPT), sampling=sampling, delivery=delivery)  # type: ignore[arg-type]


def _body(delivery: str = "stream") -> bytes:
    return encode_request(_request(delivery), model="scripted", dialect=ENGINEBAY, backend="bench")


@contextmanager
def scripted_server(*arguments: str):
    command = [sys.executable, "-m", "enginebay.testing.scripted_server", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each case")
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "http_client.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
