"""The contract of llama.cpp b11434, as test data, and contexts to plan with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from enginebay.backend import BackendContext, Mode
from enginebay.clock import MonotonicClock
from enginebay_llama_cpp.options import LlamaCppOptions

CONTRACTS = Path(__file__).parents[3] / "tests" / "data" / "contracts"
GOLDEN = Path(__file__).parent / "golden" / "b11434"
_FLAG = re.compile(r"--[a-z][a-z0-9-]+")


@cache
def contract() -> Mapping[str, Any]:
    return YAML(typ="safe", pure=True).load((CONTRACTS / "llama_cpp.yaml").read_text(encoding="utf-8"))


def quirk_ids() -> set[str]:
    return {quirk["id"] for quirk in contract()["quirks"]}


@cache
def known_flags() -> set[str]:
    launch = contract()["launch"]
    return set(_FLAG.findall(json.dumps([launch["settings"], launch["other_useful"]])))


def context(
    *,
    model: str = "smollm2-135m",
    settings: Mapping[str, object] | None = None,
    mode: Mode | None = None,
    image: str | None = None,
    **options: object,
) -> BackendContext:
    return BackendContext(
        name="llama_cpp",
        model=model,
        options=LlamaCppOptions(**options),  # type: ignore[arg-type]
        settings=dict(settings or {}),
        clock=MonotonicClock(),
        mode=mode,
        image=image,
    )
