"""What the tests of this plugin share: the contract, contexts to plan with, and simulators on a loop of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any

from ruamel.yaml import YAML

from enginebay.backend import BackendContext, Mode
from enginebay.clock import MonotonicClock
from enginebay.testing.simulators import PROFILES, Simulator, SimulatorProfile
from enginebay_tensorrt_llm.options import TensorrtLlmOptions

CONTRACTS = Path(__file__).parents[3] / "tests" / "data" / "contracts"
GOLDEN = Path(__file__).parent / "golden"
PACED = replace(PROFILES["paced"], tick_s=0.002)
STATS_FILE = "return_perf_metrics: true\nenable_iter_perf_stats: true\n"


@cache
def contract() -> Mapping[str, Any]:
    return YAML(typ="safe", pure=True).load((CONTRACTS / "tensorrt_llm.yaml").read_text(encoding="utf-8"))


def sample(name: str) -> str:
    return (CONTRACTS / "metrics" / name).read_text(encoding="utf-8")


def context(
    settings: Mapping[str, object] | None = None,
    *,
    model: str = "hf:meta-llama/Llama-2-7b-hf",
    mode: Mode | None = None,
    image: str | None = None,
    url: str | None = None,
    **options: object,
) -> BackendContext:
    return BackendContext(
        name="trt",
        model=model,
        options=TensorrtLlmOptions.model_validate(options),
        settings=dict(settings or {}),
        clock=MonotonicClock(),
        mode=mode,
        image=image,
        url=url,
    )


class SimulatorThread:
    """Outlives the loop of one test."""

    def __init__(self, kind: str, *arguments: str, profile: SimulatorProfile = PACED) -> None:
        self._kind, self._arguments, self._profile = kind, arguments, profile
        self._is_up = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._is_up.wait(10)

    async def _serve(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with Simulator(self._kind, self._arguments, profile=self._profile, port=0) as self.simulator:
            self._is_up.set()
            await self._end.wait()

    @property
    def url(self) -> str:
        return self.simulator.url

    def call(self, function: Callable[[], object]) -> None:
        """On the simulator's own loop; returns when it has run."""
        done = Event()
        self.loop.call_soon_threadsafe(lambda: (function(), done.set()))
        assert done.wait(10)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
