"""1,000 requests a second for ten minutes through the gateway with everything on, without an error.

    python benchmarks/gateway_sustained.py [--rate 1000] [--seconds 600] [--out ...]

Requests are not streamed, and come at a constant rate whatever the gateway does (open loop), from the load test's own
client; latencies count from the instant at which a request was due. The gateway has the first CPU to itself; the client
and the instant server behind have the others. Fails where a request fails, or the rate is not held.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from bars import Bar, as_json, exit_code
from gateway_stage import FULL, RESULTS, Target, cannot_measure, gateway, machine, server_behind, use_other_cpus

from enginebay.clock import MonotonicClock
from enginebay.event_loop import new_event_loop
from enginebay.loadtest.plan import Load, PlannedRequest
from enginebay.loadtest.records import Record
from enginebay.loadtest.single_process import SingleProcess
from enginebay.plugins import get_backend
from enginebay.statistics.percentiles import percentile_of_sorted
from enginebay.types import SamplingParams

MINUTE_S = 60.0
SAMPLE_S = 5.0
LEAD_S = 1.0
"""Before the first request is due."""
PERCENTILES = (50.0, 99.0, 99.9)
SAMPLING = SamplingParams(max_tokens=16, temperature=0.0)


@dataclass(slots=True)
class Minute:
    """What was due within one minute, and the gateway's process in it."""

    latencies_s: list[float] = field(default_factory=list[float])
    num_errors: int = 0
    resident_bytes: int = 0
    """The most that was seen."""

    def as_json(self) -> dict[str, Any]:
        ordered = sorted(self.latencies_s)
        shown = {
            f"latency_p{percent:g}_s": percentile_of_sorted(ordered, percent) for percent in PERCENTILES if ordered
        }
        return {
            "num_offered": len(ordered) + self.num_errors,
            "num_answered": len(ordered),
            "num_errors": self.num_errors,
            **shown,
            "latency_max_s": ordered[-1] if ordered else None,
            "resident_bytes": self.resident_bytes,
        }


class Minutes:
    """The run, minute by minute: records are counted and not kept."""

    def __init__(self, duration_s: float, *, num_tokens: int) -> None:
        self._minutes = [Minute() for _ in range(max(1, round(duration_s / MINUTE_S + 0.499)))]
        self._num_tokens = num_tokens
        self.sent_late_s: list[float] = []
        self.first_error: str | None = None

    def add(self, record: Record) -> None:
        minute = self._at(record.scheduled_at - LEAD_S)
        self.sent_late_s.append(record.sent_at - record.scheduled_at)
        if record.is_finished and record.num_output_tokens == self._num_tokens and record.last_token_at is not None:
            minute.latencies_s.append(record.last_token_at - record.scheduled_at)
            return
        minute.num_errors += 1
        self.first_error = self.first_error or f"{record.error_class}: {record.error_message}"

    def sampled(self, elapsed_s: float, resident_bytes: int) -> None:
        minute = self._at(elapsed_s)
        minute.resident_bytes = max(minute.resident_bytes, resident_bytes)

    def _at(self, elapsed_s: float) -> Minute:
        return self._minutes[min(int(elapsed_s / MINUTE_S), len(self._minutes) - 1)]

    def as_json(self) -> list[dict[str, Any]]:
        return [minute.as_json() for minute in self._minutes]

    @property
    def num_errors(self) -> int:
        return sum(minute.num_errors for minute in self._minutes)

    @property
    def num_answered(self) -> int:
        return sum(len(minute.latencies_s) for minute in self._minutes)

    @property
    def resident_growth_bytes(self) -> int:
        """From the end of the first minute to the last one."""
        return self._minutes[-1].resident_bytes - self._minutes[0].resident_bytes


def requests_due(rate: float, seconds: float) -> list[PlannedRequest]:
    text = "eight words make the prompt of this request"
    return [
        PlannedRequest(
            index=index, text=text, num_prompt_tokens=8, offset_s=LEAD_S + index / rate, sampling=SAMPLING
        )
        for index in range(round(rate * seconds))
    ]  # fmt: skip


async def replayed(target: Target, *, rate: float, seconds: float) -> tuple[Minutes, dict[str, Any]]:
    clock, minutes = MonotonicClock(), Minutes(seconds, num_tokens=16)
    options = {"max_connections": 4096} | ({} if target.key is None else {"api_key": target.key})
    async with get_backend("openai_http", url=target.url, model="m", options=options) as backend:
        watching: list[asyncio.Task[None]] = []
        replayer = SingleProcess(
            backend,
            clock=clock,
            on_record=minutes.add,
            on_begin=lambda: watching.append(asyncio.create_task(watched(target, minutes, clock))),
        )
        cpu_s, waited_s, began_at = target.cpu_s, target.waited_s, clock.now()
        await replayer.replay(requests_due(rate, seconds), Load(rate=rate, arrivals="constant"))
        cpu_s, waited_s, elapsed_s = target.cpu_s - cpu_s, target.waited_s - waited_s, clock.now() - began_at
        watching[0].cancel()
        await replayer.finish()
    [figures] = replayer.figures
    late = sorted(minutes.sent_late_s)
    client = {
        "cpu_ratio": figures.cpu_ratio,
        "longest_stall_s": figures.longest_stall_s,
        "send_lag_p50_s": percentile_of_sorted(late, 50),
        "send_lag_p99_s": percentile_of_sorted(late, 99),
    }
    gateway_figures = {
        "gateway_cpu_us_per_request": cpu_s / (rate * seconds) * 1e6,
        # For a CPU that others had: near 0 on a machine that nobody else uses.
        "gateway_waited_ratio": waited_s / elapsed_s,
    }
    return minutes, {**gateway_figures, "client": client}


async def watched(target: Target, minutes: Minutes, clock: MonotonicClock) -> None:
    begun_at = clock.now() + LEAD_S
    for number in count():
        await clock.sleep_until(begun_at + number * SAMPLE_S)
        minutes.sampled(number * SAMPLE_S, target.resident_bytes or 0)


def bars(minutes: Minutes, *, num_offered: int, rate: float, client: dict[str, Any]) -> list[Bar]:
    return [
        Bar(name=f"answered, of {num_offered}", measured=minutes.num_answered, limit=num_offered, kind="at least"),
        Bar(name="errors", measured=minutes.num_errors, limit=0, kind="at most"),
        Bar(
            name=f"sent late, p50, of the gap of {1000 / rate:g} ms",
            measured=client["send_lag_p50_s"] * rate,
            limit=1.0,
            kind="at most",
        ),
    ]


def print_minutes(minutes: Sequence[dict[str, Any]]) -> None:
    for number, minute in enumerate(minutes, 1):
        latencies = "  ".join(
            f"p{percent:g} {minute.get(f'latency_p{percent:g}_s', 0.0) * 1000:7.2f} ms" for percent in PERCENTILES
        )
        print(
            f"minute {number:2}  offered {minute['num_offered']}  answered {minute['num_answered']}  "
            f"errors {minute['num_errors']}  {latencies}  resident {minute['resident_bytes'] / 1e6:.1f} MB"
        )


def main() -> int:
    arguments = _arguments()
    if (reason := cannot_measure()) is not None:
        print(reason, file=sys.stderr)
        return 1
    report = {"what": (__doc__ or "").partition("\n")[0], **machine()}
    use_other_cpus()
    with (
        server_behind("instant_server.py") as engine,
        gateway(FULL, engine) as target,
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):
        minutes, figures = runner.run(replayed(target, rate=arguments.rate, seconds=arguments.seconds))
    num_offered = round(arguments.rate * arguments.seconds)
    reached = bars(minutes, num_offered=num_offered, rate=arguments.rate, client=figures["client"])
    report |= {
        "load_average_after": os.getloadavg()[0],
        "offered_requests_per_s": arguments.rate,
        "seconds": arguments.seconds,
        "num_offered": num_offered,
        "num_answered": minutes.num_answered,
        "num_errors": minutes.num_errors,
        "first_error": minutes.first_error,
        "resident_growth_bytes": minutes.resident_growth_bytes,
        **figures,
        "minutes": minutes.as_json(),
        "bars": as_json(reached),
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print_minutes(report["minutes"])
    print(f"the gateway waited {figures['gateway_waited_ratio']:.1%} of the time for a CPU that others had")
    return exit_code(reached)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "gateway_sustained.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
