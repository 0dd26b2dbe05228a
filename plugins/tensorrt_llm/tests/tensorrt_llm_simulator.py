"""What the tests of this plugin share: the contract and contexts to plan with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from enginebay.backend import BackendContext, Mode
from enginebay.clock import MonotonicClock
from enginebay.testing.simulators import PROFILES
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
