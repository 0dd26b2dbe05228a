"""What the ledger costs the event loop: its hook for each call, and the thread that stores beside it.

    python benchmarks/ledger_hook.py [--out FILE]

Calls end at a steady rate on the server's own kind of loop. Prints JSON: the hook's time for each call, and how late a
timer of one millisecond fires, without the ledger and with it. The database is SQLite on this machine's disk. Exit code
1 where the hook's median misses its bar.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from enginebay.cli.event_loop import new_event_loop
from enginebay.clock import MonotonicClock
from enginebay.config.gateway_ledger import LedgerConfig
from enginebay.gateway.call import Attempt, Call, Client, Outcome
from enginebay.gateway.database import open_database
from enginebay.gateway.ledger.costs import costs
from enginebay.gateway.ledger.ledger import Ledger
from enginebay.gateway.logs import make_logger
from enginebay.types import GenerationRequest, SamplingParams, Text

BAR_US = 40.0
CALLS_PER_S = 2500
DURATION_S = 10.0
TICK_S = 0.001
OUT = Path(__file__).with_name("results") / "ledger_hook.json"
PRICES = {"prices": {"assistant": {"prompt": 0.15, "output": 0.6}}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out: Path = parser.parse_args().out
    without = run(measured(lambda: None))
    with tempfile.TemporaryDirectory() as folder:
        with_ledger = run(measured_with_ledger(Path(folder)))
    result = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "calls_per_s": CALLS_PER_S,
        "duration_s": DURATION_S,
        "bar_hook_p50_us": BAR_US,
        "without_ledger": without,
        "with_ledger": with_ledger,
    }
    text = json.dumps(result, indent=2)
    print(text)
    out.write_text(text + "\n", encoding="utf-8")
    return 0 if with_ledger["hook_us"]["p50"] <= BAR_US else 1


def run(main_task) -> dict:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main_task)


async def measured_with_ledger(folder: Path) -> dict:
    url = f"sqlite:///{folder}/ledger.db"
    config = LedgerConfig.model_validate({"journal": f"{folder}/journal", **PRICES})
    ledger = Ledger(config, lambda: open_database(url), log=make_logger(), clock=MonotonicClock())
    hook, call, outcome = ledger.hook_for(config), example_call(), example_outcome()
    await ledger.begin()
    try:
        figures = await measured(lambda: hook.at_end(call, outcome))
    finally:
        await ledger.end()
    with closing(open_database(url)) as database:
        [row] = costs(database, by=("model",))
    assert row.sums.num_calls == figures["num_calls"]
    return figures


async def measured(end_one_call: Callable[[], None]) -> dict:
    """Ticks as a timer would, each with the calls that are due."""
    began_at = time.perf_counter()
    hook_s: list[float] = []
    late_s: list[float] = []
    tick_at = began_at
    while tick_at < began_at + DURATION_S:
        tick_at += TICK_S
        await asyncio.sleep(tick_at - time.perf_counter())
        late_s.append(time.perf_counter() - tick_at)
        while len(hook_s) < (tick_at - began_at) * CALLS_PER_S:
            call_began_at = time.perf_counter()
            end_one_call()
            hook_s.append(time.perf_counter() - call_began_at)
        tick_at = max(tick_at, time.perf_counter() - TICK_S)  # what was late is told, not made up for
    return {"num_calls": len(hook_s), "hook_us": percentiles_us(hook_s), "timer_late_us": percentiles_us(late_s)}


def percentiles_us(values_s: list[float]) -> dict[str, float]:
    """The hundredth percentile is the maximum."""
    values_us = np.array(values_s) * 1e6
    return {f"p{percent:g}": round(float(np.percentile(values_us, percent)), 1) for percent in (50, 99, 99.9, 100)}


def example_call() -> Call:
    sampling = SamplingParams(max_tokens=128)
    request = GenerationRequest(request_id="cmpl-0123456789abcdef0", prompt=Text("a prompt"), sampling=sampling)
    return Call(
        request_id="0123456789abcdef0",
        client=Client(address="127.0.0.1", key_id="k-0123456789"),
        model="assistant",
        version="v1",
        requests=[request],
        arrived_at=time.monotonic(),
        body_bytes=200,
        attempts=[Attempt("assistant-v1-0", time.monotonic())],
        first_token_at=time.monotonic(),
    )


def example_outcome() -> Outcome:
    return Outcome(
        kind="finished",
        error_code=None,
        num_prompt_tokens=100,
        num_cached_tokens=64,
        num_output_tokens=128,
        num_unbilled_tokens=0,
        ended_at=time.monotonic(),
    )


if __name__ == "__main__":
    raise SystemExit(main())
