"""What the gateway adds to streams whose tokens all come in the same tick, measured by the load test's own client.

    python benchmarks/gateway_streams.py [--streams 300 600] [--seconds 10] [--out ...]

A simulated server gives every open stream a token 20 times a second, to all in one tick; the first token of every other
stream comes last in a tick, of the others by itself. The load is measured without the gateway, through
it with keys, limits, routing, metrics and the ledger on, through it again, and without it again (A B B A). Streams
begin evenly, so that as many as are told are open all the time; what is reported is of the seconds in which they are.
Then 1,000 streams that are open together at 1 token a second. The gateway has the first CPU to itself; the client and
the server have the others. Fails where a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bars import Bar, as_json, exit_code
from gateway_stage import FULL, RESULTS, Target, cannot_measure, gateway, machine, server_behind, use_other_cpus
from stream_cases import NUM_HELD, Case, held, steady
from stream_figures import StreamFigures, added, stream_figures

from enginebay.clock import MonotonicClock
from enginebay.event_loop import new_event_loop
from enginebay.loadtest.client_health import client_health
from enginebay.loadtest.plan import Load
from enginebay.loadtest.records import Record
from enginebay.loadtest.single_process import SingleProcess
from enginebay.plugins import get_backend


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    target: str
    figures: StreamFigures
    gateway_cpu_s: float
    """In the window."""
    gateway_waited_ratio: float
    """Of the window, for a CPU that others had: near 0 on a machine that nobody else uses."""
    client: dict[str, Any]

    @property
    def cpu_us_per_chunk(self) -> float | None:
        num_chunks = self.figures.num_chunks_in_window
        return self.gateway_cpu_s / num_chunks * 1e6 if num_chunks else None

    def as_json(self) -> dict[str, Any]:
        shown = {"target": self.target, **self.figures.as_json(), "client": self.client}
        if self.target == "gateway":
            shown |= {
                "gateway_cpu_s": self.gateway_cpu_s,
                "gateway_cpu_us_per_chunk": self.cpu_us_per_chunk,
                "gateway_waited_ratio": self.gateway_waited_ratio,
            }
        return shown


def measured(case: Case) -> list[Run]:
    print(case.name, flush=True)
    runs: list[Run] = []
    with server_behind("ticking_server.py", "--tokens-per-s", f"{case.tokens_per_s:g}") as engine:
        for name in case.order:
            opened = nullcontext(Target(engine)) if name == "direct" else gateway(FULL, engine)
            with opened as target, asyncio.Runner(loop_factory=new_event_loop) as runner:
                runs.append(runner.run(replayed(case, name, target)))
            print(f"  {_line(runs[-1])}", flush=True)
    return runs


async def replayed(case: Case, name: str, target: Target) -> Run:
    clock, records = MonotonicClock(), list[Record]()
    load = Load(rate=case.rate, arrivals="constant")
    options = {"max_connections": 4096} | ({} if target.key is None else {"api_key": target.key})
    async with get_backend("openai_http", url=target.url, model="m", options=options) as backend:
        watching: list[asyncio.Task[tuple[float, float]]] = []
        replayer = SingleProcess(
            backend,
            clock=clock,
            on_record=records.append,
            on_begin=lambda: watching.append(asyncio.create_task(used_within(case.window, target, clock))),
        )
        await replayer.run(case.requests(), load)
        gateway_cpu_s, waited_s = await watching[0]
    if (failed := next((record for record in records if not record.is_finished), None)) is not None:
        print(f"  a stream failed: {failed.error_class}: {failed.error_message}", file=sys.stderr)
    figures = stream_figures(records, started_at=replayer.started_at, window=case.window)
    health = client_health(records, processes=replayer.figures, load=load)
    client = {
        "cpu_ratio": max(health.cpu_ratios),
        "longest_stall_s": health.longest_stall_s,
        "send_lag_p99_s": health.send_lag_p99_s,
    }
    return Run(
        target=name,
        figures=figures,
        gateway_cpu_s=gateway_cpu_s,
        gateway_waited_ratio=waited_s / (case.window[1] - case.window[0]),
        client=client,
    )


async def used_within(window: tuple[float, float], target: Target, clock: MonotonicClock) -> tuple[float, float]:
    """CPU time of the gateway's process between two instants from now on, and its wait for a CPU."""
    begun_at = clock.now()
    await clock.sleep_until(begun_at + window[0])
    cpu_s, waited_s = target.cpu_s, target.waited_s
    await clock.sleep_until(begun_at + window[1])
    return target.cpu_s - cpu_s, target.waited_s - waited_s


def _line(run: Run) -> str:
    figures = run.figures
    has_gateway = run.target == "gateway" and run.cpu_us_per_chunk is not None
    cpu = (
        f"{run.cpu_us_per_chunk:5.1f} us CPU/chunk, waited {run.gateway_waited_ratio:4.0%}" if has_gateway else " " * 31
    )
    shown = [
        f"{run.target:8} TTFT p50 {_ms(figures.ttft_s['p50'])}",
        f"in the tick {_ms(figures.ttft_in_tick_beyond_engine_s['p50'])}",
        f"gap p99 {_ms(figures.chunk_gap_s['p99'])}",
        f"late p50 {_ms(figures.lateness_s['p50'])}, p99 {_ms(figures.lateness_s['p99'])}",
        cpu,
        f"open {figures.min_open_streams}",
        f"failed {figures.num_failed}, wrong {figures.num_wrong}",
        f"client CPU {run.client['cpu_ratio']:.2f}, stall {_ms(run.client['longest_stall_s'])}",
    ]
    return "  ".join(shown)


def _ms(seconds: float | None) -> str:
    return "   none   " if seconds is None else f"{seconds * 1000:6.2f} ms"


def _in_ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def of(target: str, runs: list[Run]) -> list[StreamFigures]:
    return [run.figures for run in runs if run.target == target]


def steady_bars(num_streams: int, runs: list[Run], *, is_stretch: bool) -> list[Bar]:
    more = added(of("direct", runs), of("gateway", runs))
    cpu_us = [run.cpu_us_per_chunk for run in runs if run.target == "gateway" and run.cpu_us_per_chunk is not None]
    what, bar = f"{num_streams} streams", partial(Bar, kind="at most", is_stretch=is_stretch)
    return [
        bar(name=f"{what}: added TTFT p50, ms", measured=_in_ms(more["ttft_s"]["p50"]), limit=3.0),
        bar(name=f"{what}: added gap p99, ms", measured=_in_ms(more["chunk_gap_s"]["p99"]), limit=8.0),
        bar(name=f"{what}: gateway CPU per chunk, us", measured=max(cpu_us, default=None), limit=70.0),
        *held_bars(num_streams, runs, is_stretch=is_stretch),
        # A first token that is the last of so many in one tick waits for all of them, each at the cost of a chunk.
        Bar(
            name=f"{what}: added TTFT p50 of the last in a tick, ms",
            measured=_in_ms(more["ttft_in_tick_beyond_engine_s"]["p50"]),
            limit=3.0,
            kind="at most",
            is_stretch=True,
        ),
    ]


def held_bars(num_streams: int, runs: list[Run], *, is_stretch: bool = False) -> list[Bar]:
    what = f"{num_streams} streams"
    num_lost = sum(run.figures.num_failed + run.figures.num_wrong for run in runs)
    fewest = min(run.figures.min_open_streams for run in runs)
    return [
        Bar(name=f"{what}: open at a time", measured=fewest, limit=num_streams, kind="at least", is_stretch=is_stretch),
        Bar(name=f"{what}: streams without their exact tokens", measured=num_lost, limit=0, kind="at most",
            is_stretch=is_stretch),
    ]  # fmt: skip


def main() -> int:
    arguments = _arguments()
    if (reason := cannot_measure()) is not None:
        print(reason, file=sys.stderr)
        return 1
    results = {"what": __doc__.partition("\n")[0] if __doc__ else "", **machine()}
    allow_many_files()
    use_other_cpus()
    cases: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for num_streams in arguments.streams:
        runs = measured(case := steady(num_streams, arguments.seconds))
        cases.append(_case_json(case, runs))
        bars += steady_bars(num_streams, runs, is_stretch=num_streams > 300)
    if not arguments.without_held:
        runs = measured(case := held())
        cases.append(_case_json(case, runs))
        bars += held_bars(NUM_HELD, runs)
    results |= {"load_average_after": os.getloadavg()[0], "cases": cases, "bars": as_json(bars)}
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    return exit_code(bars)


def _case_json(case: Case, runs: list[Run]) -> dict[str, Any]:
    return {
        "name": case.name,
        "tokens_per_stream": case.num_tokens,
        "begun_per_s": case.rate,
        "window_s": case.window[1] - case.window[0],
        "runs": [run.as_json() for run in runs],
        "added": added(of("direct", runs), of("gateway", runs)),
    }


def allow_many_files() -> None:
    """As many as this user may have; the processes that are started from here inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="*", default=[300, 600], help="at a time; more than 300: stretch")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run in which all streams are open")
    parser.add_argument("--without-held", action="store_true", help="no 1,000 streams at 1 token/s")
    parser.add_argument("--out", type=Path, default=RESULTS / "gateway_streams.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
