"""The weights of a draft: loaded before the KV cache is measured, which has what they leave."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from enginebay.engine.kernels import choose_layers, expected_kernels
from enginebay.engine.kv_cache import KvCacheSize, allocate_kv_cache, block_bytes
from enginebay.engine.layer_cache import LayerCache
from enginebay.engine.model import CausalLM, load_model
from enginebay.engine.model_config import ModelConfig, read_model_config
from enginebay.engine.speculation.draft_model import DraftModel
from enginebay.engine.step_input import StepInputBuilder
from enginebay.engine.step_memory import ForwardPass
from enginebay.engine.weight_headers import expected_weight_bytes
from enginebay.errors import ModelError

if TYPE_CHECKING:
    from enginebay.engine.settings import EngineConfig


@dataclass(frozen=True, slots=True)
class DraftWeights:
    """Of another model with a cache of its own, or of the model itself, which shares the one there is."""

    name: str
    model: CausalLM
    config: ModelConfig
    """num_layers are those that are computed."""
    shares_cache: bool
    num_bytes: int
    """That no other model holds."""
    cost_ratio: float
    """Of a pass to one of the model: the weights that are read."""
    dtype: torch.dtype
    device: torch.device

    def block_bytes(self, config: EngineConfig) -> int:
        return 0 if self.shares_cache else block_bytes(self.config, config, dtype=self.dtype)

    @property
    def forward_pass(self) -> ForwardPass:
        """What it takes of a step's memory."""
        return ForwardPass(self.config, gathers_keys=not self.model.reads_paged_rows, is_draft=True)

    def on_cache(self, size: KvCacheSize, *, caches: Many[LayerCache]) -> DraftModel:
        """caches: those of the model itself."""
        if self.shares_cache:
            caches = caches[: self.config.num_layers]
        else:
            caches = allocate_kv_cache(self.config, size, dtype=self.dtype, device=self.device)
        step_inputs = StepInputBuilder(
            block_size=size.block_size,
            windows=dict.fromkeys(self.config.sliding_windows),
            dtype=self.dtype,
            device=self.device,
            reads_paged_rows=self.model.reads_paged_rows,
        )
        return DraftModel(self.model, caches, step_inputs, shares_cache=self.shares_cache)


def load_draft(
    config: EngineConfig, target: ModelConfig, model: CausalLM, *, dtype: torch.dtype, device: torch.device
) -> DraftWeights | None:
    """None where no model drafts; what was checked before (`check_draft`) is loaded. Raises ModelError."""
    if config.speculative_draft_dir is not None:
        directory = Path(config.speculative_draft_dir)
        return _another(config, target, directory, dtype=dtype, device=device)
    if config.speculative_self_draft == "int8":
        return _in_int8(config, target, dtype=dtype, device=device)
    if config.speculative_self_draft is not None:
        return _first_layers(config.speculative_self_draft, target, model, dtype=dtype, device=device)
    return None


def check_draft(config: EngineConfig, target: ModelConfig, *, max_model_len: int) -> None:
    """Raises ModelError for a draft that this model cannot have; no weight is read for it."""
    if config.speculative_draft_dir is not None:
        _check_another(Path(config.speculative_draft_dir), target, max_model_len=max_model_len)
    elif config.speculative_self_draft == "int8":
        _check_int8(config)
    elif config.speculative_self_draft is not None:
        _num_first_layers(config.speculative_self_draft, target)


def expected_draft_bytes(config: EngineConfig, target: ModelConfig, *, dtype: torch.dtype) -> int:
    """Of the weights that `load_draft` would load, from the headers of their files. Raises ModelError."""
    if config.speculative_draft_dir is not None:
        directory = Path(config.speculative_draft_dir)
        return expected_weight_bytes(directory, read_model_config(directory), dtype=dtype, quantization=None)
    if config.speculative_self_draft == "int8":
        return expected_weight_bytes(Path(config.model_dir), target, dtype=dtype, quantization="int8")
    return 0


def expected_draft_block_bytes(config: EngineConfig, *, dtype: torch.dtype) -> int:
    """What a draft model with a cache of its own will put beside each block. Raises ModelError."""
    if config.speculative_draft_dir is None:
        return 0
    own = read_model_config(Path(config.speculative_draft_dir))
    return block_bytes(own, config, dtype=dtype)


def expected_draft_pass(config: EngineConfig, *, dtype: torch.dtype, device: torch.device) -> ForwardPass | None:
    """Of another model; the model's own layers as a draft take no more than the model. Raises ModelError."""
    if config.speculative_draft_dir is None:
        return None
    own = read_model_config(Path(config.speculative_draft_dir))
    kernels = expected_kernels(config.kernels, None, model=own, dtype=dtype, device=device).kernels
    return ForwardPass(own, gathers_keys=kernels != "native", is_draft=True)


def _check_another(directory: Path, target: ModelConfig, *, max_model_len: int) -> None:
    own = read_model_config(directory)
    if own.vocab_size != target.vocab_size:
        raise ModelError(
            f"speculative_draft_model {directory.name}: its vocabulary has {own.vocab_size} tokens, that of the model "
            f"{target.vocab_size}; a draft model must have the same one"
        )
    if own.longest_context < max_model_len:
        raise ModelError(
            f"speculative_draft_model {directory.name}: its position embeddings reach {own.longest_context} tokens, "
            f"and max_model_len is {max_model_len}; lower it"
        )


def _another(
    config: EngineConfig, target: ModelConfig, directory: Path, *, dtype: torch.dtype, device: torch.device
) -> DraftWeights:
    own = read_model_config(directory)
    layers = choose_layers(config.kernels, None, model=own, dtype=dtype, device=device)
    model, _ = load_model(directory, own, layers, dtype=dtype, device=device)
    return DraftWeights(
        directory.name, model, own, shares_cache=False, num_bytes=layers.held.num_bytes,
        cost_ratio=_num_read(own) / _num_read(target), dtype=dtype, device=device,
    )  # fmt: skip


def _check_int8(config: EngineConfig) -> None:
    if config.quantization is not None:
        raise ModelError(
            f"speculative_self_draft int8: the model is in {config.quantization} itself, its int8 form is no cheaper; "
            "leave out one of the two, or use first_layers:N"
        )


def _in_int8(config: EngineConfig, target: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> DraftWeights:
    layers = choose_layers(
        config.kernels if config.kernels in ("native", "plain") else "auto", "int8", model=target, dtype=dtype,
        device=device, batch_invariant=config.batch_invariant,
    )  # fmt: skip
    model, _ = load_model(Path(config.model_dir), target, layers, dtype=dtype, device=device)
    return DraftWeights(
        "int8", model, target, shares_cache=True, num_bytes=layers.held.num_bytes, cost_ratio=1 / dtype.itemsize,
        dtype=dtype, device=device,
    )  # fmt: skip


def _num_first_layers(name: str, target: ModelConfig) -> int:
    number = name.removeprefix("first_layers:")
    if number == name or not number.isdecimal() or not 1 <= int(number) < target.num_layers:
        raise ModelError(
            f"speculative_self_draft {name!r}: the model has {target.num_layers} layers; "
            f"use int8, or first_layers:N with N from 1 to {target.num_layers - 1}"
        )
    return int(number)


def _first_layers(
    name: str, target: ModelConfig, model: CausalLM, *, dtype: torch.dtype, device: torch.device
) -> DraftWeights:
    cut = _cut_off(target, _num_first_layers(name, target))
    return DraftWeights(
        name, model.first_layers(cut.num_layers), cut, shares_cache=True, num_bytes=0,
        cost_ratio=_num_read(cut) / _num_read(target), dtype=dtype, device=device,
    )  # fmt: skip


def _cut_off(config: ModelConfig, num_layers: int) -> ModelConfig:
    return replace(config, num_layers=num_layers, sliding_windows=config.sliding_windows[:num_layers])


def _num_read(config: ModelConfig) -> int:
    """Weights that one pass reads: every layer, and the head."""
    attention = 2 * config.hidden_size * (config.num_heads + config.num_kv_heads) * config.head_dim
    mlp = 3 * config.hidden_size * config.intermediate_size
    return config.num_layers * (attention + mlp) + config.vocab_size * config.hidden_size
