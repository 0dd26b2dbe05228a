"""What the settings come to, before anything is loaded: device, dtype and context, kernels, and the sum of memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from enginebay.engine.kernels import expected_kernels
from enginebay.engine.kernels.choice import Choice
from enginebay.engine.memory_plan import MemoryBudget, MemoryPlan
from enginebay.engine.model_config import ModelConfig, read_model_config
from enginebay.engine.policies import build_policy
from enginebay.engine.settings import EngineConfig
from enginebay.engine.speculation.draft_weights import (
    check_draft,
    expected_draft_block_bytes,
    expected_draft_bytes,
    expected_draft_pass,
)
from enginebay.engine.weight_headers import expected_weight_bytes
from enginebay.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Forecast:
    kernels: Choice
    memory: MemoryPlan
    available_bytes: int


def forecast(config: EngineConfig) -> Forecast:
    """What the engine would start with here; no weight is read, and nothing compiled.

    Raises ConfigError or ModelError, as its start does.
    """
    device, dtype = device_of(config), dtype_of(config)
    model = read_model_config(Path(config.model_dir))
    build_policy(config, max_model_len=max_model_len_of(config, model))
    budget = MemoryBudget(config, device)
    memory = expected_memory(config, model, budget, dtype=dtype, device=device)
    return Forecast(_kernels(config, model, dtype=dtype, device=device), memory, budget.available_bytes)


def expected_memory(
    config: EngineConfig, model: ModelConfig, budget: MemoryBudget, *, dtype: torch.dtype, device: torch.device
) -> MemoryPlan:
    """From the headers of the files: weights count once each, a second layout that is kept comes on top.

    Raises ModelError: with the arithmetic for what cannot fit, and for a draft that the model cannot have.
    """
    directory, max_model_len = Path(config.model_dir), max_model_len_of(config, model)
    check_draft(config, model, max_model_len=max_model_len)
    kernels = _kernels(config, model, dtype=dtype, device=device).kernels
    num_bytes = expected_weight_bytes(directory, model, dtype=dtype, quantization=config.quantization)
    plan = budget.plan(
        model,
        max_model_len=max_model_len,
        dtype=dtype,
        weight_bytes=num_bytes + expected_draft_bytes(config, model, dtype=dtype),
        gathers_keys=kernels != "native" and not config.batch_invariant,
        draft_block_bytes=expected_draft_block_bytes(config, dtype=dtype),
        draft_pass=expected_draft_pass(config, dtype=dtype, device=device),
    )
    if is_smoothed(config):
        budget.check_smoothing(expected_weight_bytes(directory, model, dtype=dtype, quantization=None))
    return plan


def _kernels(config: EngineConfig, model: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> Choice:
    return expected_kernels(
        config.kernels, config.quantization, model=model, dtype=dtype, device=device,
        batch_invariant=config.batch_invariant,
    )  # fmt: skip


def is_smoothed(config: EngineConfig) -> bool:
    return config.quantization == "int8" and config.smooth_int8


def device_of(config: EngineConfig) -> torch.device:
    try:
        device = torch.device(config.device)
    except RuntimeError as error:
        raise ModelError(f"device {config.device!r} is not a torch device: {error}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {config.device!r} was asked for, but this torch sees no CUDA device; use cpu")
    return device


def dtype_of(config: EngineConfig) -> torch.dtype:
    if config.dtype not in DTYPES:
        raise ModelError(f"dtype {config.dtype!r} is not supported (supported: {', '.join(DTYPES)})")
    return DTYPES[config.dtype]


def max_model_len_of(config: EngineConfig, model: ModelConfig) -> int:
    max_model_len = model.max_model_len if config.max_model_len is None else config.max_model_len
    if max_model_len < 2:
        raise ModelError(f"max_model_len must be at least 2, a token of prompt and one of output, not {max_model_len}")
    if config.max_model_len is not None and config.max_model_len > model.longest_context:
        raise ModelError(
            f"max_model_len {config.max_model_len} is beyond the {model.longest_context} tokens "
            f"that the model's position embeddings reach; lower it"
        )
    return max_model_len
