"""A simulated vLLM that writes down what it computed for each request, so that a `kill -9` cannot take it back.

    python benchmarks/chaos_engine.py PORT REPORT --seed N

One line of REPORT for each request that ended in the engine: its id, its tokens, how it ended. The line is written
before its last token is sent. What goes wrong by itself: overloads, refused connections, stalled and cut streams,
malformed events. Simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import replace

from enginebay.testing.simulators import PROFILES, FaultPlan
from enginebay.testing.simulators.exchange import Exchange, HttpRequest
from enginebay.testing.simulators.faults import Fault, FaultRule
from enginebay.testing.simulators.request import SimulatedRequest
from enginebay.testing.simulators.server import Simulator

TICK_S = 0.005
MODEL = "m"
FAULTS = (
    (Fault.CUT, 0.015),
    (Fault.STALL, 0.004),
    (Fault.MALFORMED, 0.01),
    (Fault.OVERLOAD, 0.001),
    (Fault.REFUSE, 0.01),
)


class ReportingSimulator(Simulator):
    def __init__(self, port: int, report: str, *, seed: int) -> None:
        rules = [FaultRule(fault=fault, probability=share, after_events=2) for fault, share in FAULTS]
        super().__init__(
            "vllm",
            ["--model", MODEL, "--max-num-seqs", "64"],
            profile=replace(PROFILES["paced"], tick_s=TICK_S),
            faults=FaultPlan(rules=rules, seed=seed),
            port=port,
        )
        self._report_fd = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._ids: dict[SimulatedRequest, str] = {}
        self._tell_end, self.engine._ended = self.engine._ended, self._ended

    def _answer(self, request: HttpRequest, exchange: Exchange, rule: FaultRule | None) -> None:
        super()._answer(request, exchange, rule)
        for submitted in exchange._requests:
            self._ids[submitted] = request.headers["x-request-id"]

    def _ended(self, request: SimulatedRequest, reason: str) -> None:
        self._tell_end(request, reason)
        line = {"id": self._ids.pop(request), "num_tokens": request.num_output_tokens, "reason": reason}
        os.write(self._report_fd, json.dumps(line).encode() + b"\n")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("report")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    async with ReportingSimulator(given.port, given.report, seed=given.seed):
        print("listening", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
