"""Whether limits hold: two gateway processes on one Redis, 200 clients that ask as fast as they can.

    python benchmarks/gateway_limits.py [--clients 200] [--seconds 10] [--out benchmarks/results/gateway_limits.json]

Needs redis-server. One limit after the other, each with a key of its own and less than its window long, so that what
came through in all may not be more than the limit. Two count: the engine behind the gateways, and the accounts in
Redis, which are read all the time. At the end some clients leave in the middle. Exit code 1 where anything was exceeded
by a single one, is still held afterwards, or is counted otherwise in the ledger. The engine is simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from counting_engine import CountingEngine, Counts, content_length
from gateway_process import running_gateway
from redis.asyncio import Redis

from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.database import open_database
from enginebay.gateway.ledger.costs import Sums, costs

OUT = Path(__file__).with_name("results") / "gateway_limits.json"
NUM_GATEWAYS = 2
MAX_TOKENS = 16
NANO = 10**9
MAX_EXTRA_S = 30.0
PROMPT_PRICE, OUTPUT_PRICE = 1000, 2000  # for a million tokens: a thousandth, and two, for one
CONFIG = """
version: 1
backends:
  engine: {{kind: openai_http, url: "{engine}", model: m}}
gateway:
  models: {{m: {{versions: {{v1: [{{backend: engine}}]}}}}}}
  database: sqlite:///{folder}/gateway.db
  access: {{}}
  limits:
    redis: {redis}
    tiers:
      requests: {{requests_per_minute: {requests}}}
      tokens: {{tokens_per_minute: {tokens}}}
      at_once: {{concurrent_requests: {at_once}}}
      money: {{budget: {{amount: {money}, per: day}}}}
      all: {{requests_per_minute: {requests}, tokens_per_minute: {tokens}, concurrent_requests: {at_once}}}
  ledger: {{journal: {folder}/journal, prices: {{m: {{prompt: 1000, output: 2000}}}}}}
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """Small enough that all of them are reached within the time."""

    requests: int = 2000
    tokens: int = 20_000
    at_once: int = 30
    money: int = 20


@dataclass(slots=True)
class Phase:
    """One key under one limit."""

    tier: str
    statuses: Counter[int] = field(default_factory=Counter[int])
    other_answers: Counter[str] = field(default_factory=Counter[str])
    """Bodies of what was neither."""
    num_left: int = 0
    """Clients that closed their connection in the middle."""
    num_without_retry_after: int = 0
    """429 of a rate that did not say when to come back."""
    most_taken: dict[str, int] = field(default_factory=dict[str, int])
    """Of each account in Redis: held and used, the most that was ever seen."""
    taken_after: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """The same, apart, when everything had ended."""

    def wants_more(self, until: float) -> bool:
        """On a slow machine the limit may not be reached yet."""
        return not self.statuses[429] and time.monotonic() < until + MAX_EXTRA_S


# ---------------------------------------------------------------- clients


class Client:
    """One connection that is used again and again, and made again where it was closed."""

    def __init__(self, url: str, key: str) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port, self._key = int(port), key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, prompt: str) -> tuple[int, bytes, bytes]:
        """Status, head and body of the answer."""
        body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": MAX_TOKENS}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {self._key}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        told = await reader.readexactly(content_length(answer))
        return int(answer.split(b" ", 2)[1]), answer.lower(), told

    async def leave(self) -> None:
        if self._streams is None:
            return
        writer, self._streams = self._streams[1], None
        writer.close()
        with suppress(OSError):  # the gateway may have closed it too
            await writer.wait_closed()


async def hammer(client: Client, phase: Phase, until: float, leaves: Random | None) -> None:
    """leaves: how often, and when, this one goes away in the middle; None is never."""
    while time.monotonic() < until or phase.wants_more(until):
        patience_s = None if leaves is None or leaves.random() > 0.2 else leaves.uniform(0, 0.04)
        try:
            async with asyncio.timeout(patience_s):
                status, head, body = await client.ask(phase.tier)
        except TimeoutError:
            phase.num_left += 1
            await client.leave()
            continue
        phase.statuses[status] += 1
        if status not in (200, 429):
            phase.other_answers[body.decode()] += 1
        if status == 429:
            phase.num_without_retry_after += b"\r\nretry-after: " not in head
            await asyncio.sleep(0.02)  # else two gateways do nothing but refuse
    await client.leave()


# ---------------------------------------------------------------- accounts in Redis


@asynccontextmanager
async def watching(redis: Redis, key_id: str, phase: Phase) -> AsyncGenerator[None, None]:
    """Reads the key's accounts over and over."""
    is_over = asyncio.Event()  # redis-py may swallow a cancellation
    task = asyncio.create_task(_watch(redis, key_id, phase, is_over))
    try:
        yield
    finally:
        is_over.set()
        await task


async def _watch(redis: Redis, key_id: str, phase: Phase, is_over: asyncio.Event) -> None:
    while not is_over.is_set():
        for name, account in (await accounts(redis, key_id)).items():
            phase.most_taken[name] = max(phase.most_taken.get(name, 0), sum(account.values()))
        await asyncio.sleep(0.002)


async def accounts(redis: Redis, key_id: str) -> dict[str, dict[str, int]]:
    """By what they count: held and used."""
    found: dict[str, dict[str, int]] = {}
    for name in await redis.keys(f"enginebay:limits:key:{key_id}:*"):
        if name.endswith(":leases"):
            continue
        fields: Mapping[str, str] = await redis.hgetall(name)  # pyright: ignore[reportGeneralTypeIssues]
        used = sum(int(value) for slot, value in fields.items() if slot not in ("held", "seeded"))
        found[name.split(":")[4]] = {"held": int(fields.get("held", 0)), "used": used}
    return found


async def settled(redis: Redis, key_id: str) -> dict[str, dict[str, int]]:
    """What is left when the gateways have told Redis all ends, or ten seconds later."""
    for _ in range(500):
        left = await accounts(redis, key_id)
        if not any(account["held"] for account in left.values()):
            return left
        await asyncio.sleep(0.02)
    return await accounts(redis, key_id)


# ---------------------------------------------------------------- the run


@contextmanager
def running_redis(folder: Path) -> Generator[str, None, None]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class Run:
    phases: Sequence[Phase]
    engine: Mapping[str, Counts]
    ledger: Mapping[str, Sums]
    limits: Limits


async def run(*, num_clients: int, seconds: float, limits: Limits) -> Run:
    """Everything in a folder of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        redis_url = stack.enter_context(running_redis(folder))
        async with CountingEngine() as engine, Redis.from_url(redis_url, decode_responses=True) as redis:
            values = {slot: getattr(limits, slot) for slot in Limits.__slots__}
            config = CONFIG.format(engine=engine.url, folder=folder, redis=redis_url, **values)
            urls = await asyncio.to_thread(_start_gateways, stack, config, folder)
            phases: list[Phase] = []
            keys = {tier: new_key(folder, tier) for tier in ("requests", "tokens", "at_once", "money", "all")}
            for tier, key in keys.items():
                phase = Phase(tier)
                await _run_phase(phase, key, urls, redis, num_clients=num_clients, seconds=seconds)
                phases.append(phase)
                print(
                    f"  {tier:9}",
                    dict(phase.statuses),
                    dict(phase.other_answers),
                    f"left: {phase.num_left}",
                    phase.taken_after,
                    flush=True,
                )
            counts = dict(engine.counts)
            await asyncio.to_thread(stack.close)
        return Run(phases, counts, _ledger(folder), limits)


def _start_gateways(stack: ExitStack, config: str, folder: Path) -> list[str]:
    urls: list[str] = []
    for number in range(NUM_GATEWAYS):
        own = folder / f"gateway-{number}"
        own.mkdir()
        urls.append(stack.enter_context(running_gateway(config, own)).url)
    return urls


def new_key(folder: Path, tier: str) -> str:
    with closing(open_database(f"sqlite:///{folder}/gateway.db")) as database:
        return KeyStore(database).create(tier, scopes=["inference"], tier=tier).text


async def _run_phase(
    phase: Phase, key: str, urls: Sequence[str], redis: Redis, *, num_clients: int, seconds: float
) -> None:
    key_id = key.split("-")[1]
    until = time.monotonic() + seconds
    async with watching(redis, key_id, phase):
        await asyncio.gather(
            *(
                hammer(Client(urls[number % len(urls)], key), phase, until, Random(number) if _leaves(phase) else None)
                for number in range(num_clients)
            )
        )
    phase.taken_after = await settled(redis, key_id)


def _leaves(phase: Phase) -> bool:
    """An engine may hear of a client that left after the next request: what runs there at once is counted before."""
    return phase.tier == "all"


def _ledger(folder: Path) -> dict[str, Sums]:
    """By the key's name, which is its tier."""
    with closing(open_database(f"sqlite:///{folder}/gateway.db")) as database:
        rows = costs(database, by=("key",))
    merged: dict[str, Sums] = {}
    for row in rows:  # a call that was refused for having no price would have another currency: there is none
        assert row.group[1] not in merged
        merged[row.group[1]] = row.sums
    return merged


# ---------------------------------------------------------------- figures and bars


def figures(run: Run) -> dict[str, Any]:
    return {
        phase.tier: {
            "statuses": {str(status): num for status, num in sorted(phase.statuses.items())},
            "other_answers": dict(phase.other_answers),
            "num_clients_left": phase.num_left,
            "engine": {slot: getattr(run.engine[phase.tier], slot) for slot in Counts.__slots__},
            "most_taken_in_redis": phase.most_taken,
            "taken_afterwards_in_redis": phase.taken_after,
            "ledger": {slot: getattr(run.ledger[phase.tier], slot) for slot in Sums.__slots__},
        }
        for phase in run.phases
    }


def bars(run: Run) -> dict[str, bool]:
    """What must hold, in words."""
    limits, engine, ledger = run.limits, run.engine, run.ledger
    by_tier = {phase.tier: phase for phase in run.phases}
    spent = ledger["money"].cost_nano
    held = {name: account["held"] for phase in run.phases for name, account in phase.taken_after.items()}
    return {
        f"at most {limits.requests} requests a minute reach the engine": (
            max(engine[tier].num_requests for tier in ("requests", "all")) <= limits.requests
        ),
        "and all of them do": engine["requests"].num_requests == limits.requests,
        f"at most {limits.tokens} tokens a minute are made": (
            max(engine[tier].num_tokens for tier in ("tokens", "all")) <= limits.tokens
        ),
        "held and used tokens are never more": (
            max(by_tier[tier].most_taken["tokens"] for tier in ("tokens", "all")) <= limits.tokens
        ),
        f"at most {limits.at_once} requests run in the engine at once": (
            engine["at_once"].most_running <= limits.at_once
        ),
        "and as many are held": by_tier["at_once"].most_taken["requests"] == limits.at_once,
        "held requests are never more": (
            max(by_tier[tier].most_taken["requests"] for tier in ("at_once", "all")) <= limits.at_once
        ),
        f"at most {limits.money} are spent": by_tier["money"].most_taken["cost_nano"] <= limits.money * NANO,
        "what is spent in Redis is what the ledger has": by_tier["money"].taken_after["cost_nano"]["used"] == spent,
        "used tokens in Redis are the engine's": (
            by_tier["tokens"].taken_after["tokens"]["used"] == engine["tokens"].num_tokens
        ),
        "where clients left, they are the ledger's": (
            by_tier["all"].taken_after["tokens"]["used"]
            == ledger["all"].num_prompt_tokens + ledger["all"].num_output_tokens
        ),
        "nothing is held afterwards": set(held.values()) == {0},
        "every limit refused somebody": all(phase.statuses[429] for phase in run.phases),
        "every 429 says when to come back": not any(phase.num_without_retry_after for phase in run.phases),
        "nothing but 200 and 429 was answered": all(set(phase.statuses) <= {200, 429} for phase in run.phases),
        "every answer is a finished call in the ledger": all(
            phase.statuses[200] <= ledger[phase.tier].num_finished <= phase.statuses[200] + phase.num_left
            for phase in run.phases
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0, help="Of each limit; less than a minute.")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if shutil.which("redis-server") is None:
        print("not measured: redis-server is not installed", file=sys.stderr)
        return 1
    done = asyncio.run(run(num_clients=arguments.clients, seconds=arguments.seconds, limits=Limits()))
    held = bars(done)
    for words, holds in held.items():
        print("ok    " if holds else "MISSED", words)
    result = {
        "machine": {"num_cpus": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform()},
        "simulated": True,
        "num_gateways": NUM_GATEWAYS,
        "num_clients": arguments.clients,
        "seconds_each": arguments.seconds,
        "limits": {slot: getattr(done.limits, slot) for slot in Limits.__slots__},
        "bars": held,
        "phases": figures(done),
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
