"""Everything goes wrong at once, over real processes: what is left of it, and whether every request is accounted for.

    python benchmarks/gateway_chaos.py [--requests 10000] [--out benchmarks/results/gateway_chaos.json]

A gateway with keys, limits and ledger on before three simulated engines. Clients leave at any moment or read slowly;
engines are killed (SIGKILL), stand still (SIGSTOP), cut streams, stall, send malformed events, refuse; the config is
reloaded (SIGHUP) again and again, good ones and bad ones. Afterwards nothing may be in flight, reserved or running, and
ledger, clients and engines must agree on every request. Exit code 1 where they do not. Engines are simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from chaos_accounts import WARM_UP, differences, figures, leftovers
from chaos_clients import Seen, ask, draw_plan
from chaos_town import Town

from enginebay.loadtest.environment import describe_environment

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gateway_chaos.json"
NUM_CLIENTS = 80
NUM_ENGINES = 3
ACTS = ("kill", "stop", "stop", "reload", "reload", "bad reload")
"""Dealt like cards, so that a short run has all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    seen: Sequence[Seen]
    acts: Counter[str]
    duration_s: float
    leftovers: dict[str, float]
    """What is not 0 and should be."""
    differences: list[str]
    """Where ledger, clients and engines do not agree, in words."""
    figures: dict[str, Any]

    @property
    def is_clean(self) -> bool:
        return not self.leftovers and not self.differences


def run_chaos(folder: Path, *, num_requests: int, seed: int = 1) -> Outcome:
    rng = Random(seed)
    with ExitStack() as stack:
        town = stack.enter_context(Town.running(folder, num_engines=NUM_ENGINES))
        asyncio.run(_warm_up(town))
        began_at = time.monotonic()
        seen, acts = asyncio.run(_play(town, rng, num_requests))
        duration_s = time.monotonic() - began_at
        left = leftovers(town)
        town.end()
        return Outcome(
            seen=seen,
            acts=acts,
            duration_s=duration_s,
            leftovers=left,
            differences=differences(town, seen),
            figures=figures(town, seen),
        )


async def _warm_up(town: Town) -> None:
    rng = Random(0)
    plans = [replace(draw_plan(rng, serial, town.keys), request_id=f"{WARM_UP}{serial}") for serial in range(30)]
    await asyncio.gather(*(ask(plan, town.port) for plan in plans))
    await town.calm()
    town.warmed_up()


async def _play(town: Town, rng: Random, num_requests: int) -> tuple[list[Seen], Counter[str]]:
    serials = iter(range(num_requests))
    seen: list[Seen] = []
    acts: Counter[str] = Counter()

    async def client() -> None:
        for serial in serials:
            seen.append(await ask(draw_plan(rng, serial, town.keys), town.port))
            if seen[-1].ending == "told":  # who was refused waits a little, as good clients do
                await asyncio.sleep(rng.uniform(0.0, 0.4))

    are_through = asyncio.Event()
    chaos = asyncio.create_task(_make_chaos(town, rng, acts, are_through))
    await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))
    are_through.set()
    await chaos
    await town.calm()
    return seen, acts


async def _make_chaos(town: Town, rng: Random, acts: Counter[str], are_through: asyncio.Event) -> None:
    """One act after another; each engine runs again at the end of one."""
    deck: list[str] = []
    while not are_through.is_set():
        await asyncio.sleep(rng.uniform(0.1, 0.5))
        engine = rng.choice(town.engines)
        if not deck:
            deck = rng.sample(ACTS, len(ACTS))
        act = deck.pop()
        acts[act] += 1
        if act == "kill":
            engine.kill()
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            await asyncio.to_thread(engine.start)
        elif act == "stop":
            with engine.stopped():
                await asyncio.sleep(rng.uniform(0.1, 1.5))
        else:
            town.write_config(rng, is_bad=act == "bad reload")
            town.gateway.process.send_signal(signal.SIGHUP)


def report(outcome: Outcome) -> dict[str, Any]:
    return {
        "simulated": True,
        "num_requests": len(outcome.seen),
        "num_clients": NUM_CLIENTS,
        "num_engines": NUM_ENGINES,
        "duration_s": round(outcome.duration_s, 1),
        "acts": dict(outcome.acts),
        "leftovers": outcome.leftovers,
        "differences": outcome.differences,
        **outcome.figures,
        "environment": msgspec.to_builtins(describe_environment()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_chaos(Path(folder), num_requests=given.requests, seed=given.seed)
    result = report(outcome)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        if name != "environment":
            print(f"{name:24} {value}")
    print("everything is accounted for" if outcome.is_clean else "NOT everything is accounted for")
    return 0 if outcome.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
