"""What each adapter costs by itself: CPU of this process alone, against simulated engines in processes of their own.

    python benchmarks/adapter_overhead.py [--kinds vllm tgi] [--seconds 1] [--users 64] [--memory-requests 50000]

Every engine answers through its own protocol, simulated, so the figures say nothing about engines. Coalesced: all
events of an answer arrive in few reads. Paced: all streams tick together and each read has one event. The cost of a
coalesced chunk is the slope between answers of two lengths; that of a request, what is left of it at length 0. Each
case is repeated and the cheapest is taken: what else runs on the machine can only add to it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvloop

from enginebay import GenerationRequest, SamplingParams, Text, get_backend
from enginebay.errors import BackendNotFound
from enginebay.guard import GuardedBackend
from enginebay.plugins import find_backend
from enginebay.testing.simulators import simulated_kinds

NUM_FEW, NUM_MANY, NUM_PACED = 8, 88, 64
NUM_REPEATS = 3
TICK_S = 0.02
FLAGS = {"llama_cpp": ("--parallel", "128", "--kv-unified")}
"""Of the simulated engine, where its own defaults would serve fewer streams at once."""
PROMPT = "the quick brown fox jumps over the lazy dog " * 4
BARS = {"request_us": 100.0, "streamed_request_us": 100.0, "coalesced_chunk_us": 15.0, "paced_chunk_us": 50.0}
MAX_GROWTH_BYTES = 4 * 2**20
"""Of the resident memory over all requests of the memory case; the allocator's own ups and downs are within it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    num_tokens: int
    is_streamed: bool = True

    def request(self) -> GenerationRequest:
        sampling = SamplingParams(max_tokens=self.num_tokens, temperature=0.0)
        delivery = "stream" if self.is_streamed else "final"
        return GenerationRequest(request_id="bench", prompt=Text(PROMPT), sampling=sampling, delivery=delivery)


@dataclass(slots=True)
class Cost:
    cpu_s: float = 0.0
    duration_s: float = 0.0
    num_requests: int = 0
    num_chunks: int = 0

    @property
    def us_per_request(self) -> float:
        return self.cpu_s * 1e6 / self.num_requests

    @property
    def us_per_chunk(self) -> float:
        return self.cpu_s * 1e6 / self.num_chunks


def main() -> int:
    arguments = _arguments()
    report = {
        "what": "CPU of the client process in each adapter, against simulated engines on loopback, closed loop",
        "simulated": True,
        "machine": {"cpu": platform.processor() or platform.machine(), "num_cpus": os.cpu_count()},
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "event_loop": f"uvloop {uvloop.__version__}",
        "users": arguments.users,
        "bars": {**BARS, "memory_growth_bytes": MAX_GROWTH_BYTES},
        "adapters": {},
    }
    for kind, simulated in pairs(arguments.kinds):
        figures = measure_adapter(kind, simulated, arguments)
        report["adapters"][kind] = {"simulator": simulated, **figures, "missed": missed(figures)}
        print(f"{kind}: {json.dumps(report['adapters'][kind])}", flush=True)
    report["load_average_after"] = os.getloadavg()[0]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def pairs(wanted: list[str]) -> Iterator[tuple[str, str]]:
    """(adapter, simulated engine); openai_http is measured against vLLM's server."""
    for kind in ("openai_http", *simulated_kinds()):
        try:
            find_backend(kind)
        except BackendNotFound:
            continue
        if not wanted or kind in wanted:
            yield kind, "vllm" if kind == "openai_http" else kind


def measure_adapter(kind: str, simulated: str, arguments: argparse.Namespace) -> dict[str, float]:
    seconds, users = arguments.seconds, arguments.users
    with simulator(simulated, "--profile", "instant") as (url, model):
        figures = uvloop.run(measure_instant(kind, url, model, seconds=seconds, users=users))
    with simulator(simulated, "--profile", "paced", "--tick-s", str(TICK_S)) as (url, model):
        figures |= uvloop.run(measure_paced(kind, url, model, seconds=seconds, users=users))
    if arguments.memory_requests:
        with simulator(simulated, "--profile", "instant") as (url, model):
            figures |= uvloop.run(measure_memory(kind, url, model, arguments.memory_requests, users=users))
    return figures


async def measure_instant(kind: str, url: str, model: str, *, seconds: float, users: int) -> dict[str, float]:
    async with get_backend(kind, mode="external", url=url, model=model) as backend:
        costs: dict[tuple[bool, int], Cost] = {}
        for is_streamed in (False, True):
            for num_tokens in (NUM_FEW, NUM_MANY):
                load = Load(num_tokens=num_tokens, is_streamed=is_streamed)
                costs[is_streamed, num_tokens] = await cheapest(backend, load, seconds=seconds, users=users)
    request_us, _ = _line(costs[False, NUM_FEW], costs[False, NUM_MANY])
    streamed_request_us, chunk_us = _line(costs[True, NUM_FEW], costs[True, NUM_MANY])
    whole, many = costs[False, NUM_FEW], costs[True, NUM_MANY]
    return {
        "request_us": round(request_us, 1),
        "streamed_request_us": round(streamed_request_us, 1),
        "coalesced_chunk_us": round(chunk_us, 2),
        "chunks_per_answer": round(many.num_chunks / many.num_requests, 1),
        "tokens_per_answer": NUM_MANY,
        "requests_per_s": round(whole.num_requests / whole.duration_s, 1),
    }


def _line(few: Cost, many: Cost) -> tuple[float, float]:
    """(microseconds of a request without tokens, of one token more)"""
    slope_us = (many.us_per_request - few.us_per_request) / (NUM_MANY - NUM_FEW)
    return few.us_per_request - slope_us * NUM_FEW, slope_us


async def measure_paced(kind: str, url: str, model: str, *, seconds: float, users: int) -> dict[str, float]:
    async with get_backend(kind, mode="external", url=url, model=model) as backend:
        paced = await cheapest(backend, Load(num_tokens=NUM_PACED), seconds=seconds, users=users)
    chunks_per_s = round(paced.num_chunks / paced.duration_s, 1)
    return {"paced_chunk_us": round(paced.us_per_chunk, 1), "paced_chunks_per_s": chunks_per_s}


async def measure_memory(kind: str, url: str, model: str, num_requests: int, *, users: int) -> dict[str, float]:
    """Resident memory before and after; a fifth of the requests go before, so that caches and pools are full."""
    process, load = psutil.Process(), Load(num_tokens=NUM_FEW)
    async with get_backend(kind, mode="external", url=url, model=model) as backend:
        await run_many(backend, load, num_requests // 5, users=users)
        gc.collect()
        before = process.memory_info().rss
        await run_many(backend, load, num_requests, users=users)
        gc.collect()
        after = process.memory_info().rss
    return {"memory_requests": num_requests, "memory_before_bytes": before, "memory_growth_bytes": after - before}


async def cheapest(backend: GuardedBackend, load: Load, *, seconds: float, users: int) -> Cost:
    costs = [await closed_loop(backend, load, seconds=seconds, users=users) for _ in range(NUM_REPEATS)]
    return min(costs, key=lambda cost: cost.us_per_request)


async def closed_loop(backend: GuardedBackend, load: Load, *, seconds: float, users: int) -> Cost:
    """Requests begun before the end are finished and counted."""
    await run_many(backend, load, users * 2, users=users)  # warm: connections, caches
    cost, request = Cost(), load.request()
    gc.collect()
    began_at, cpu_began_s = time.perf_counter(), time.process_time()

    async def user() -> None:
        while time.perf_counter() - began_at < seconds:
            num_chunks = await once(backend, request)  # before the sum is read: others add to it meanwhile
            cost.num_chunks += num_chunks
            cost.num_requests += 1

    await asyncio.gather(*(user() for _ in range(users)))
    cost.cpu_s, cost.duration_s = time.process_time() - cpu_began_s, time.perf_counter() - began_at
    return cost


async def run_many(backend: GuardedBackend, load: Load, num_requests: int, *, users: int) -> None:
    request, indices = load.request(), iter(range(num_requests))

    async def user() -> None:
        for _ in indices:
            await once(backend, request)

    await asyncio.gather(*(user() for _ in range(users)))


async def once(backend: GuardedBackend, request: GenerationRequest) -> int:
    """Returns the number of chunks."""
    num_chunks, last = 0, None
    async for chunk in backend.generate(request):
        num_chunks += 1
        last = chunk
    assert last is not None
    assert last.usage is not None
    assert last.usage.num_output_tokens == request.sampling.max_tokens, "the simulated answer ended early"
    return num_chunks


def missed(figures: dict[str, float]) -> list[str]:
    over = [name for name, bar in BARS.items() if figures[name] > bar]
    return over + (["memory_growth_bytes"] if figures.get("memory_growth_bytes", 0) > MAX_GROWTH_BYTES else [])


@contextmanager
def simulator(kind: str, *options: str) -> Iterator[tuple[str, str]]:
    """Its address and its model's name. On the last processor, this process on the others, where there are several."""
    command = [sys.executable, "-m", "enginebay.cli", "simulate", kind, "--port", "0", "--load-time-s", "0", *options]
    command += ["--", *FLAGS[kind]] if kind in FLAGS else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        _pin(process.pid)
        assert process.stdout is not None
        url = process.stdout.readline().strip().rpartition(": ")[2]
        model = process.stdout.readline().strip().rpartition("serves ")[2]
        yield url, model
    finally:
        process.terminate()
        process.wait()


def _pin(pid: int) -> None:
    own = psutil.Process()
    if not hasattr(own, "cpu_affinity"):
        return
    processors = sorted(os.sched_getaffinity(0) | set(psutil.Process(pid).cpu_affinity() or ()))
    if len(processors) > 1:
        psutil.Process(pid).cpu_affinity(processors[-1:])
        own.cpu_affinity(processors[:-1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", default=[], help="adapters; all that are installed by default")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each repeat of a case")
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--memory-requests", type=int, default=50_000, help="0 leaves the memory case out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "adapter_overhead.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
