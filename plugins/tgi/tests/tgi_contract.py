"""The contract of TGI 3.3.7, as test data, and contexts to plan with."""

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
from enginebay.plugins import find_backend

CONTRACTS = Path(__file__).parents[3] / "tests" / "data" / "contracts"
GOLDEN = Path(__file__).parent / "golden" / "3.3.7"
_FLAG = re.compile(r"--[a-z][a-z-]+")


@cache
def contract() -> Mapping[str, Any]:
    return YAML(typ="safe", pure=True).load((CONTRACTS / "tgi.yaml").read_text())


@cache
def openapi() -> Mapping[str, Any]:
    return json.loads((CONTRACTS / "tgi-openapi.json").read_text())


def quirk_ids() -> set[str]:
    return {quirk["id"] for quirk in contract()["quirks"]}


def known_flags() -> set[str]:
    launch = contract()["launch"]
    return set(_FLAG.findall(json.dumps([launch["settings"], launch["other_useful"]])))


def known_variables() -> set[str]:
    return {setting["env"] for setting in contract()["launch"]["settings"].values() if setting.get("env")}


def context(
    *,
    settings: Mapping[str, object] | None = None,
    mode: Mode | None = None,
    image: str | None = None,
    url: str | None = None,
    model: str = "hf:meta-llama/Llama-2-7b-chat-hf",
    environment: Mapping[str, str] | None = None,
    **options: object,
) -> BackendContext:
    spec = find_backend("tgi")
    return BackendContext(
        name="tgi",
        model=model,
        options=spec.options_model(**{"cache_directory": "/srv/models", **options}),
        settings=settings or {},
        clock=MonotonicClock(),
        mode=mode,
        image=image,
        url=url,
        environment=environment or {},
    )
