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
from enginebay.engine.memory_plan import MemoryBudget
from enginebay.engine.model import CausalLM, load_model
from enginebay.engine.model_config import ModelConfig, read_model_config
from enginebay.engine.plan import StepPlan
from enginebay.engine.settings import EngineConfig
from enginebay.engine.setup import device_of, dtype_of, expected_memory, is_smoothed, max_model_len_of
from enginebay.engine.smoothing import load_smoothed
from enginebay.engine.speculation.draft_model import DraftModel
from enginebay.engine.speculation.draft_weights import load_draft
from enginebay.engine.step_input import StepInput, StepInputBuilder


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
        self.device = device_of(config)
        self.dtype = dtype_of(config)
        _set_num_threads(config)
        self.model_config: ModelConfig = read_model_config(Path(config.model_dir))
        self.max_model_len = max_model_len_of(config, self.model_config)
        budget = MemoryBudget(config, self.device)
        # refuses what cannot fit: before kernels are compiled, or a weight is read
        expected_memory(config, self.model_config, budget, dtype=self.dtype, device=self.device)
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
        load = load_smoothed if is_smoothed(config) else load_model
        self.model, stored_bytes = load(
            Path(config.model_dir), self.model_config, layers, dtype=self.dtype, device=self.device
        )
        self.draft_weights = load_draft(config, self.model_config, self.model, dtype=self.dtype, device=self.device)
        draft_bytes = draft_block_bytes = 0
        draft_pass = None
        if self.draft_weights is not None:
            draft_bytes = self.draft_weights.num_bytes
            draft_block_bytes = self.draft_weights.block_bytes(config)
            draft_pass = self.draft_weights.forward_pass
        weight_bytes = layers.held.num_bytes + draft_bytes
        size = budget.plan(
            self.model_config,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
            weight_bytes=weight_bytes,
            gathers_keys=not self.model.reads_paged_rows,
            draft_block_bytes=draft_block_bytes,
            draft_pass=draft_pass,
        ).kv_cache
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


def _set_num_threads(config: EngineConfig) -> None:
    num_threads = config.num_threads or len(os.sched_getaffinity(0))
    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)
