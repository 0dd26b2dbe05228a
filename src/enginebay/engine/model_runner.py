"""Computes step plans: owns the weights and the KV cache, knows nothing of scheduling or sampling."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from enginebay.engine.kernels import choose_layers
from enginebay.engine.kv_cache import KvCacheSize, allocate_kv_cache
from enginebay.engine.logits import StepLogits
from enginebay.engine.memory_plan import MemoryBudget, MemoryPlan
from enginebay.engine.model import CausalLM, load_model
from enginebay.engine.model_config import ModelConfig, read_model_config
from enginebay.engine.plan import StepPlan
from enginebay.engine.settings import EngineConfig
from enginebay.engine.smoothing import load_smoothed
from enginebay.engine.speculation.draft_model import DraftModel
from enginebay.engine.speculation.draft_weights import expected_draft_bytes, load_draft
from enginebay.engine.step_input import StepInput, StepInputBuilder
from enginebay.engine.weight_headers import expected_weight_bytes
from enginebay.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class MemoryUse:
    weight_bytes: int
    """As they are held, every layout of them."""
    stored_bytes: int
    """The same weights, once each, in the dtype that is computed in."""
    layouts: str
    """Each part of the weights, its layout and its bytes."""
    kv_cache: KvCacheSize
    draft_bytes: int = 0
    """Of a draft model's own weights."""

    def __str__(self) -> str:
        before = "" if self.weight_bytes == self.stored_bytes else f", from {self.stored_bytes:,}"
        draft = f"; draft model {self.draft_bytes:,} bytes" if self.draft_bytes else ""
        return f"weights {self.weight_bytes:,} bytes{before} ({self.layouts}){draft}; KV cache {self.kv_cache}"


@dataclass(frozen=True, slots=True)
class PromptLogits:
    """Made where they are looked at: of a long prompt all at once they would take more memory than the KV cache."""

    _model: CausalLM
    _hidden: Tensor
    """(num_new_tokens, hidden_size)"""

    def __getitem__(self, rows: slice, /) -> Tensor:
        with torch.inference_mode():
            return self._model.logits(self._hidden[rows])


class ModelRunner:
    """Raises ModelError when the directory, a setting or the memory does not do.

    Sets the number of threads of the process: it is meant to run in one of its own.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.model_dir = config.model_dir
        self.device = _device(config)
        self.dtype = _dtype(config)
        _set_num_threads(config)
        self.model_config: ModelConfig = read_model_config(Path(config.model_dir))
        self.max_model_len = _max_model_len(config, self.model_config)
        layers = choose_layers(
            config.kernels,
            config.quantization,
            model=self.model_config,
            dtype=self.dtype,
            device=self.device,
            batch_invariant=config.batch_invariant,
        )
        self.kernels = layers.name
        """The form of the layers that was chosen."""
        budget = MemoryBudget(config, self.device)
        self._refuse_what_cannot_fit(config, budget)
        load = load_smoothed if _is_smoothed(config) else load_model
        self.model, stored_bytes = load(
            Path(config.model_dir), self.model_config, layers, dtype=self.dtype, device=self.device
        )
        self.draft_weights = load_draft(
            config, self.model_config, self.model, max_model_len=self.max_model_len, dtype=self.dtype,
            device=self.device,
        )  # fmt: skip
        draft_bytes = draft_block_bytes = 0
        if self.draft_weights is not None:
            draft_bytes = self.draft_weights.num_bytes
            draft_block_bytes = self.draft_weights.block_bytes(config.block_size)
        weight_bytes = layers.held.num_bytes + draft_bytes
        plan = self._memory_plan(budget, weight_bytes=weight_bytes, draft_block_bytes=draft_block_bytes)
        size = plan.kv_cache
        self.num_blocks, self.block_size = size.num_blocks, size.block_size
        """Usable blocks: their ids are 1 to num_blocks, block 0 is scratch."""
        self.memory_use = MemoryUse(
            weight_bytes=layers.held.num_bytes,
            stored_bytes=stored_bytes,
            layouts=str(layers.held),
            kv_cache=size,
            draft_bytes=draft_bytes,
        )
        self.caches = allocate_kv_cache(self.model_config, size, dtype=self.dtype, device=self.device)
        self._unusable_blocks: set[int] = set()
        self._step_inputs = StepInputBuilder(
            block_size=size.block_size,
            windows=dict.fromkeys(self.model_config.sliding_windows),
            dtype=self.dtype,
            device=self.device,
            reads_paged_rows=self.model.reads_paged_rows,
        )
        self.draft: DraftModel | None = None
        if self.draft_weights is not None:
            self.draft = self.draft_weights.on_cache(size, caches=self.caches)

    def _refuse_what_cannot_fit(self, config: EngineConfig, budget: MemoryBudget) -> None:
        """Before a weight is read."""
        directory, model, dtype = Path(config.model_dir), self.model_config, self.dtype
        num_bytes = expected_weight_bytes(directory, model, dtype=dtype, quantization=config.quantization)
        num_draft_bytes = expected_draft_bytes(config, model, dtype=dtype)
        self._memory_plan(budget, weight_bytes=num_bytes + num_draft_bytes)
        if _is_smoothed(config):
            budget.check_smoothing(expected_weight_bytes(directory, model, dtype=dtype, quantization=None))

    def _memory_plan(self, budget: MemoryBudget, *, weight_bytes: int, draft_block_bytes: int = 0) -> MemoryPlan:
        return budget.plan(
            self.model_config,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
            weight_bytes=weight_bytes,
            draft_block_bytes=draft_block_bytes,
        )

    def forward(self, plan: StepPlan) -> StepLogits:
        with torch.inference_mode():
            step = self._step_inputs.build(plan)
            if self._unusable_blocks:
                self._clear_reused_blocks(step)
            hidden = self.model.forward(step, self.caches)
            self._note_unusable(hidden, step)
            return self._logits(hidden, step)

    def _note_unusable(self, hidden: Tensor, step: StepInput) -> None:
        """Remember the blocks of rows that are not finite: their sequence goes on failing, the next owner must not."""
        is_unusable = hidden.isfinite().all(dim=-1).logical_not_()
        if is_unusable.any():
            self._unusable_blocks.update((step.attention.slot_mapping[is_unusable] // self.block_size).tolist())

    def _clear_reused_blocks(self, step: StepInput) -> None:
        """A new owner starts at a block's first slot. It masks what lies behind, but NaN times 0 is NaN."""
        slots = step.attention.slot_mapping
        started = set((slots[slots % self.block_size == 0] // self.block_size).tolist())
        for block in started & self._unusable_blocks:
            for cache in self.caches:
                cache.clear(block)
        self._unusable_blocks -= started

    def _logits(self, hidden: Tensor, step: StepInput) -> StepLogits:
        return StepLogits(
            sampled=self.model.logits(hidden.index_select(0, step.sampled_rows)),
            prompt={index: PromptLogits(self.model, hidden[rows]) for index, rows in step.prompt_rows.items()},
        )

    def device_memory_bytes(self) -> int | None:
        """Memory of the accelerator in use; None on the CPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else None


def _is_smoothed(config: EngineConfig) -> bool:
    return config.quantization == "int8" and config.smooth_int8


def _device(config: EngineConfig) -> torch.device:
    try:
        device = torch.device(config.device)
    except RuntimeError as error:
        raise ModelError(f"device {config.device!r} is not a torch device: {error}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {config.device!r} was asked for, but this torch sees no CUDA device; use cpu")
    return device


def _dtype(config: EngineConfig) -> torch.dtype:
    if config.dtype not in DTYPES:
        raise ModelError(f"dtype {config.dtype!r} is not supported (supported: {', '.join(DTYPES)})")
    return DTYPES[config.dtype]


def _set_num_threads(config: EngineConfig) -> None:
    num_threads = config.num_threads or len(os.sched_getaffinity(0))
    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)


def _max_model_len(config: EngineConfig, model: ModelConfig) -> int:
    max_model_len = model.max_model_len if config.max_model_len is None else config.max_model_len
    if max_model_len < 2:
        raise ModelError(f"max_model_len must be at least 2, a token of prompt and one of output, not {max_model_len}")
    if config.max_model_len is not None and config.max_model_len > model.longest_context:
        raise ModelError(
            f"max_model_len {config.max_model_len} is beyond the {model.longest_context} tokens "
            f"that the model's position embeddings reach; lower it"
        )
    return max_model_len
