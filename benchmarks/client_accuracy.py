"""How exact the load test's client is, held against an oracle that knows what it sent and when.

    python benchmarks/client_accuracy.py [--seconds 10] [--out benchmarks/results/client_accuracy.json]

TTFT at 100 requests/s; token counts of 10,000 answers of many lengths, in chunks of one and of three tokens; instants
of sending at rates up to 500 requests/s, evenly spaced and in one process. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from enginebay.backend import Backend
from enginebay.clock import MonotonicClock
from enginebay.event_loop import new_event_loop
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.plan import Load
from enginebay.loadtest.self_check.oracle_process import OracleProcess, oracle_process
from enginebay.loadtest.self_check.script import OracleScript
from enginebay.loadtest.self_check.trial import Trial, planned_requests, run_trial
from enginebay.plugins import get_backend

BARS = {"ttft_error_p99_s": 0.002, "num_wrong_token_counts": 0, "offset_error_p99_s": 0.002}
TTFT_RATE = 100.0
OFFSET_RATES = (50.0, 100.0, 200.0, 500.0)
LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)
NUM_COUNTED = 10_000


def main() -> int:
    arguments = _arguments()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        found = runner.run(_measure(arguments.seconds, arguments.counted))
    met = {
        "ttft_error_p99_s": found["ttft"]["error_p99_s"] <= BARS["ttft_error_p99_s"],
        "num_wrong_token_counts": found["token_counts"]["num_wrong"] == 0,
        "offset_error_p99_s": all(one["error_p99_s"] <= BARS["offset_error_p99_s"] for one in found["offsets"]),
    }
    report = {
        "what": "errors of the load test's client against an oracle on loopback",
        "simulated": True,
        "environment": msgspec.to_builtins(describe_environment()),
        "load_average": os.getloadavg()[0],
        "bars": BARS,
        "bars_met": met,
        **found,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 0


async def _measure(seconds: float, num_counted: int) -> dict[str, Any]:
    options = {"max_connections": 4096}
    async with (
        oracle_process() as oracle,
        get_backend("openai_http", url=oracle.url, model="oracle", options=options) as backend,
    ):
        return {
            "ttft": await _ttft(oracle, backend, seconds),
            "token_counts": await _token_counts(oracle, backend, num_counted),
            "offsets": [await _offsets(oracle, backend, rate, seconds) for rate in OFFSET_RATES],
        }


async def _ttft(oracle: OracleProcess, backend: Backend, seconds: float) -> dict[str, float]:
    script = OracleScript(first_token_after_s=0.05, token_gap_s=0.01, role_only_chunk=True)
    trial = await _open_loop(oracle, backend, TTFT_RATE, seconds, script=script)
    return {
        "requests_per_s": TTFT_RATE,
        "num_requests": len(trial.records),
        "error_p50_s": trial.ttft_error_s(50),
        "error_p99_s": trial.ttft_error_s(99),
        "error_max_s": trial.ttft_error_s(100),
        "chunk_error_p99_s": trial.stamp_error_s(99),
    }


async def _token_counts(oracle: OracleProcess, backend: Backend, num_requests: int) -> dict[str, float]:
    num_wrong = num_tokens = 0
    for tokens_per_chunk in (1, 3):
        trial = await run_trial(
            oracle,
            backend,
            planned_requests(num_requests // 2, num_tokens=LENGTHS),
            Load(users=64),
            script=OracleScript(tokens_per_chunk=tokens_per_chunk, separate_writes=True),
            clock=MonotonicClock(),
        )
        num_wrong += trial.num_wrong_token_counts
        num_tokens += sum(exchange.num_tokens for exchange in trial.exchanges)
    return {"num_requests": num_requests, "num_tokens": num_tokens, "num_wrong": num_wrong}


async def _offsets(oracle: OracleProcess, backend: Backend, rate: float, seconds: float) -> dict[str, float]:
    script = OracleScript(first_token_after_s=0.05, token_gap_s=0.01)
    trial = await _open_loop(oracle, backend, rate, seconds, script=script)
    return {
        "requests_per_s": rate,
        "num_requests": len(trial.records),
        "error_p50_s": trial.offset_error_s(50),
        "error_p99_s": trial.offset_error_s(99),
        "error_max_s": trial.offset_error_s(100),
    }


async def _open_loop(
    oracle: OracleProcess, backend: Backend, rate: float, seconds: float, *, script: OracleScript
) -> Trial:
    requests = planned_requests(int(rate * seconds), num_tokens=(4, 8, 3, 16), rate=rate)
    load = Load(rate=rate, arrivals="constant")
    return await run_trial(oracle, backend, requests, load, script=script, clock=MonotonicClock())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each open loop")
    parser.add_argument("--counted", type=int, default=NUM_COUNTED, help="answers whose tokens are counted")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "client_accuracy.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
