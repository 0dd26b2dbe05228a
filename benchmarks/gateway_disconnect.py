"""From a client's disconnect to the freed slot, for every kind of engine behind a gateway.

    python benchmarks/gateway_disconnect.py [--backend KIND ...] [--samples 100] [--out FILE]

A client of a gateway process opens a stream and closes its socket, after the first token or before the first byte of
the answer (while the engine computes a long prompt). Measured is the time from that close to the first answer in which
the engine itself says that nothing is in flight any more; that it had said so of this request before is a condition of
each sample. The engine is asked as fast as it answers, at most once a millisecond: the gap between two answers is the
resolution, and stands beside the figures. Engines that cannot run here are simulated, and labelled so. With --backend
only those kinds are measured, and take their places in the file. Exit code 1 where a slot was never freed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import msgspec
from bars import Bar, as_json, exit_code
from disconnect_engines import CASES, EngineCase, Started, Watch, metrics_watch, started
from gateway_process import GatewayProcess, running_gateway

from enginebay.loadtest.environment import describe_environment
from enginebay.statistics.percentiles import percentile

RESULT = Path(__file__).parent / "results" / "gateway_disconnect.json"
Moment = Literal["after_first_token", "before_first_byte"]
MOMENTS: tuple[Moment, ...] = ("after_first_token", "before_first_byte")
NUM_SHORT_PROMPT_WORDS = 8
MAX_TOKENS = 400
POLL_S = 0.001
SEEN_WITHIN_S, FREE_WITHIN_S = 30.0, 30.0
NUM_STABLE_POLLS = 3
"""A gauge may be 0 for a moment between two steps: free means free in so many answers, from the first of them on."""
MAX_TRIES_RATIO = 3
"""A request that answered before it was seen is no sample; with so many for each sample the engine is too fast."""
WORDS = ("time", "river", "stone", "light", "house", "garden", "water", "night", "letter", "window", "paper", "road")
GATEWAY = {"models": {"m": {"versions": {"v1": [{"backend": "engine"}]}}}, "health": {"canary_period_s": 86_400}}
"""No canaries: they would be requests beside the one that is measured."""


@dataclass(slots=True)
class Samples:
    freed_s: list[float] = field(default_factory=list[float])
    gaps_s: list[float] = field(default_factory=list[float])
    """Between two answers of the engine while it was asked whether the slot is free."""
    num_never_freed: int = 0
    num_too_late: int = 0
    """Answered, or ended, before the engine told of them."""

    def summary(self) -> dict[str, Any]:
        return {
            "num_samples": len(self.freed_s) + self.num_never_freed,
            "num_never_freed": self.num_never_freed,
            "num_too_late": self.num_too_late,
            "freed_p50_s": rounded(self.freed_s, 50),
            "freed_p99_s": rounded(self.freed_s, 99),
            "freed_max_s": rounded(self.freed_s, 100),
            "resolution_p50_s": rounded(self.gaps_s, 50),
            "resolution_p99_s": rounded(self.gaps_s, 99),
            "freed_s": [round(duration_s, 6) for duration_s in self.freed_s],
        }


def rounded(values: Sequence[float], percent: float) -> float | None:
    """A percentile to the microsecond; None of no values."""
    return round(percentile(values, percent), 6) if values else None


class Leaver:
    """A client that leaves its streams, one after the other, and asks the engine what it still holds."""

    def __init__(self, port: int, watch: Watch, rng: Random, *, num_prompt_words: int) -> None:
        self._port, self._watch, self._rng = port, watch, rng
        self._num_words = {"after_first_token": NUM_SHORT_PROMPT_WORDS, "before_first_byte": num_prompt_words}
        self._loop = asyncio.get_running_loop()

    async def warm(self) -> None:
        """One answer to its end, so that nothing that an engine does once is measured."""
        with await self._asked("before_first_byte", max_tokens=4) as client:
            while piece := await self._loop.sock_recv(client, 65536):
                if b"[DONE]" in piece:
                    break
        await self._until_free(Samples())

    async def leave(self, moment: Moment, num_samples: int) -> Samples:
        samples = Samples()
        for _ in range(num_samples * MAX_TRIES_RATIO):
            if len(samples.freed_s) + samples.num_never_freed == num_samples:
                break
            await self._once(moment, samples)
        return samples

    async def _once(self, moment: Moment, samples: Samples) -> None:
        with await self._asked(moment, max_tokens=MAX_TOKENS) as client:
            if moment == "after_first_token":
                await self._first_token(client)
            was_seen = await self._is_seen(client, moment)
            closed_at = time.monotonic()
        if not was_seen:
            samples.num_too_late += 1
            await self._until_free(Samples())
            return
        freed_at = await self._until_free(samples)
        if freed_at is None:
            samples.num_never_freed += 1
        else:
            samples.freed_s.append(freed_at - closed_at)

    async def _asked(self, moment: Moment, *, max_tokens: int) -> socket.socket:
        """Words in a new order each time: no engine has the beginning of the prompt in its cache."""
        prompt = " ".join(self._rng.choices(WORDS, k=self._num_words[moment]))
        fields = {"model": "m", "prompt": f"{self._rng.random()} {prompt}", "max_tokens": max_tokens, "stream": True}
        body = json.dumps({**fields, "temperature": 0}).encode()
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self._loop.sock_connect(client, ("127.0.0.1", self._port))
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        )
        await self._loop.sock_sendall(client, head.encode() + b"\r\n\r\n" + body)
        return client

    async def _first_token(self, client: socket.socket) -> None:
        received = b""
        while b'"text"' not in received:
            piece = await self._loop.sock_recv(client, 65536)
            received += piece
            assert piece, f"the gateway ended the stream: {received.decode()}"
            assert received.startswith(b"HTTP/1.1 200"), received.decode()

    async def _is_seen(self, client: socket.socket, moment: Moment) -> bool:
        """The engine tells of the request, and its client has not yet what it must not have."""
        gives_up_at = time.monotonic() + SEEN_WITHIN_S
        while await self._watch() < 1:
            if has_answered(client, ended=moment == "after_first_token") or time.monotonic() > gives_up_at:
                return False
            await asyncio.sleep(POLL_S)
        return not has_answered(client, ended=moment == "after_first_token")

    async def _until_free(self, samples: Samples) -> float | None:
        """The first of the answers that say so; None where none came in time."""
        gives_up_at = time.monotonic() + FREE_WITHIN_S
        free_at, num_stable, before = 0.0, 0, time.monotonic()
        while num_stable < NUM_STABLE_POLLS:
            in_flight, now = await self._watch(), time.monotonic()
            samples.gaps_s.append(now - before)
            before = now
            free_at = now if num_stable == 0 else free_at
            num_stable = num_stable + 1 if in_flight == 0 else 0
            if now > gives_up_at:
                return None
            await asyncio.sleep(POLL_S)
        return free_at


def has_answered(client: socket.socket, *, ended: bool) -> bool:
    """Whether anything of the answer, or where `ended` its last event, lies in the socket."""
    try:
        received = client.recv(1 << 20, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return b"[DONE]" in received if ended else True


async def measure(case: EngineCase, num_samples: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(started(case, folder))
            gateway = await asyncio.to_thread(stack.enter_context, running_gateway(config_of(case, engine), folder))
            watch = engine.watch or await stack.enter_async_context(metrics_watch(gateway.url, case.series))
            leaver = Leaver(gateway.port, watch, Random(seed), num_prompt_words=case.num_prompt_words)
            await leaver.warm()
            moments = {moment: (await leaver.leave(moment, num_samples)).summary() for moment in MOMENTS}
            return {
                "what": case.what,
                "simulated": case.simulated,
                "engine_version": engine.version,
                "settings": dict(case.settings),
                "num_prompt_words": case.num_prompt_words,
                "asked": "the gateway's /metrics" if engine.watch is None else "the engine's own metrics",
                **moments,
                "num_in_flight_after": await in_flight_in(gateway),
            }


def config_of(case: EngineCase, engine: Started) -> str:
    """JSON is YAML."""
    return json.dumps({"version": 1, "model": "smollm2-135m", "backends": {"engine": engine.entry}, "gateway": GATEWAY})


async def in_flight_in(gateway: GatewayProcess) -> float:
    """In the pool and at the replica."""
    async with metrics_watch(gateway.url, ("enginebay_pool_inside", "llm_requests_in_flight")) as watch:
        return await watch()


def shown(kind: str, result: dict[str, Any]) -> str:
    label = f"{kind} (simulated)" if result["simulated"] else kind
    lines = [
        f"{label:26} {moment:18} {figures['num_samples']:4} samples, p50 {_ms(figures['freed_p50_s'])}, "
        f"p99 {_ms(figures['freed_p99_s'])}, max {_ms(figures['freed_max_s'])}, "
        f"resolution {_ms(figures['resolution_p50_s'])}, never freed {figures['num_never_freed']}"
        for moment, figures in ((moment, result[moment]) for moment in MOMENTS)
    ]
    return "\n".join(lines)


def _ms(duration_s: float | None) -> str:
    return "-" if duration_s is None else f"{duration_s * 1000:.1f} ms"


def bars_of(kind: str, result: dict[str, Any], num_samples: int) -> list[Bar]:
    bars = [Bar(name=f"{kind}: in flight afterwards", measured=result["num_in_flight_after"], limit=0, kind="at most")]
    for moment in MOMENTS:
        figures, label = result[moment], f"{kind}, {moment.replace('_', ' ')}"
        bars += [
            Bar(name=f"{label}: never freed", measured=figures["num_never_freed"], limit=0, kind="at most"),
            Bar(name=f"{label}: samples", measured=figures["num_samples"], limit=num_samples, kind="at least"),
        ]
    return bars


def machine_now() -> dict[str, Any]:
    return {
        "environment": msgspec.to_builtins(describe_environment()),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average_before": os.getloadavg()[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=[case.kind for case in CASES])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"backends": {}}
    if arguments.backend and arguments.out.exists():
        report = json.loads(arguments.out.read_text())
    bars: list[Bar] = []
    for case in CASES:
        if arguments.backend and case.kind not in arguments.backend:
            continue
        if not case.is_installed:
            print(f"{case.kind:26} not measured: {case.needs} is not there", flush=True)
            continue
        machine = machine_now()
        result = asyncio.run(measure(case, arguments.samples, arguments.seed))
        bars_here = bars_of(case.kind, result, arguments.samples)
        report["backends"][case.kind] = {**result, "bars": as_json(bars_here), "machine": machine}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
        print(shown(case.kind, result), flush=True)
        bars += bars_here
    return exit_code(bars)


if __name__ == "__main__":
    sys.exit(main())
