"""What a gateway holds in memory: idle, and over 200,000 requests with everything on.

    python benchmarks/gateway_memory.py [--requests 200000] [--trace] [--out FILE]

Everything on: keys, limits of keys and of addresses, ledger, metrics, two replicas and prefix-aware routing. No prompt
comes twice; the requests are of many keys, and of many addresses of the loopback network; one in ten is streamed, one
in a hundred has an unknown key, one an unknown field. Two bars: at most 150 MB resident when idle, and flat: from the
warm-up on, in which bounded stores fill, a straight line through the samples of every 5,000 requests rises by no more
than 2 MB. Behind the gateway an instant server answers: simulated. Exit code 1 where a bar is missed. With --trace the
gateway says which lines of code hold what came in the second half, and nothing is written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bars import Bar, as_json, exit_code
from gateway_process import CLI, GatewayProcess, running_gateway
from gateway_stage import GATEWAY_CPU, cannot_measure, machine, pinned, server_behind, use_other_cpus
from memory_traffic import Traffic, send_all

from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.database import open_database

RESULT = Path(__file__).parent / "results" / "gateway_memory.json"
TRACED = (sys.executable, "-X", "tracemalloc=1", str(Path(__file__).with_name("traced_cli.py")))
MAX_IDLE_MB, MAX_RISE_MB = 150.0, 2.0
SAMPLE_EVERY = 5_000
WARM_RATIO = 0.25
NUM_KEYS, NUM_CONNECTIONS = 50, 64
IDLE_S = 3.0
CONFIG = """
version: 1
backends:
  left: {{kind: openai_http, url: "{engine}", model: m}}
  right: {{kind: openai_http, url: "{engine}", model: m}}
server: {{port: 0}}
gateway:
  models: {{m: {{versions: {{v1: [{{backend: left}}, {{backend: right}}]}}}}}}
  database: sqlite:///{folder}/gateway.db
  routing: {{policy: prefix_aware}}
  access: {{}}
  limits:
    key: {{requests_per_second: 1000000, tokens_per_minute: 1000000000, tokens_per_day: 1000000000000,
          concurrent_requests: 100000, budget: {{amount: 1000000, per: month}}}}
    address: {{requests_per_second: 1000000, tokens_per_minute: 1000000000, concurrent_requests: 100000}}
  ledger: {{journal: "{folder}/journal", prices: {{m: {{prompt: 0.1, output: 0.4}}}}}}
"""


def measure(num_requests: int, *, is_traced: bool) -> tuple[dict[str, Any], list[Bar]]:
    report = {"machine": machine()}
    with tempfile.TemporaryDirectory() as name, server_behind("instant_server.py") as engine:
        folder = Path(name)
        config = CONFIG.format(engine=engine, folder=folder)
        program = TRACED if is_traced else CLI
        with running_gateway(config, folder, prefix=pinned(GATEWAY_CPU), program=program) as gateway:
            keys = new_keys(folder)
            time.sleep(IDLE_S)
            idle_bytes = gateway.process.memory_info().rss
            samples, num_wrong, duration_s = asyncio.run(sampled(gateway, keys, num_requests, is_traced=is_traced))
            if is_traced or num_wrong:
                print((folder / "gateway.log").read_text()[-12_000:])
            store_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    rise_bytes = risen([sample for sample in samples if sample[0] >= num_requests * WARM_RATIO])
    bars = [
        Bar(name="resident when idle, MB", measured=idle_bytes / 1e6, limit=MAX_IDLE_MB, kind="at most"),
        Bar(name="rise after the warm-up, MB", measured=rise_bytes / 1e6, limit=MAX_RISE_MB, kind="at most"),
        Bar(name="wrong answers", measured=num_wrong, limit=0, kind="at most"),
    ]
    return {
        **report,
        "num_requests": num_requests,
        "num_wrong_answers": num_wrong,
        "duration_s": round(duration_s, 1),
        "idle_resident_bytes": idle_bytes,
        "warm_after_requests": int(num_requests * WARM_RATIO),
        "rise_bytes": round(rise_bytes),
        "resident_bytes_by_num_requests": dict(samples),
        "bytes_on_disk": store_bytes,
        "bars": as_json(bars),
    }, bars


def new_keys(folder: Path) -> list[str]:
    """In the gateway's database, while it runs."""
    database = open_database(f"sqlite:///{folder}/gateway.db")
    try:
        return [KeyStore(database).create(f"key-{index}", scopes=["inference"]).text for index in range(NUM_KEYS)]
    finally:
        database.close()


async def sampled(
    gateway: GatewayProcess, keys: Sequence[str], num_requests: int, *, is_traced: bool
) -> tuple[list[tuple[int, int]], int, float]:
    """(number of requests, resident bytes then) at each sample, wrong answers, seconds in all."""
    samples: list[tuple[int, int]] = []
    traffic = Traffic(gateway.port, keys)
    began_at = time.monotonic()
    num_wrong = 0
    for num_done in range(SAMPLE_EVERY, num_requests + 1, SAMPLE_EVERY):
        wrong = await send_all(traffic, SAMPLE_EVERY, num_connections=NUM_CONNECTIONS)
        if wrong and not num_wrong:
            print(f"{len(wrong)} wrong answers, the first of them: {wrong[0].decode()}", file=sys.stderr)
        num_wrong += len(wrong)
        samples.append((num_done, gateway.process.memory_info().rss))
        print(f"{num_done:8,} requests  {samples[-1][1] / 1e6:7.1f} MB", flush=True)
        if is_traced and num_done in (num_requests // 2, num_requests):
            gateway.process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(10)
    return samples, num_wrong, time.monotonic() - began_at


def risen(samples: Sequence[tuple[int, int]]) -> float:
    """By the least-squares line through them, from the first to the last."""
    mean_x = sum(x for x, _ in samples) / len(samples)
    mean_y = sum(y for _, y in samples) / len(samples)
    variance = sum((x - mean_x) ** 2 for x, _ in samples)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in samples) / variance if variance else 0.0
    return slope * (samples[-1][0] - samples[0][0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if problem := cannot_measure():
        print(problem, file=sys.stderr)
        return 1
    use_other_cpus()
    result, bars = measure(arguments.requests, is_traced=arguments.trace)
    if arguments.trace:
        return 0
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['num_requests'] / result['duration_s']:.0f} requests/s")
    return exit_code(bars)


if __name__ == "__main__":
    sys.exit(main())
