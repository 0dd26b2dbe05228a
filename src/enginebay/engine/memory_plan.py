"""Whether a model fits, added up before it is loaded: weights, KV cache and one step against what there is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from enginebay.engine.kv_cache import KvCacheSize, MemoryShare, block_bytes, kv_cache_size
from enginebay.engine.memory import available_memory_bytes, shareable_memory_bytes
from enginebay.engine.model_config import ModelConfig
from enginebay.engine.settings import EngineConfig
from enginebay.engine.step_memory import ForwardPass, step_bytes
from enginebay.errors import ModelError


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    weight_bytes: int
    kv_cache: KvCacheSize
    step_bytes: int

    @property
    def num_bytes(self) -> int:
        return self.weight_bytes + self.kv_cache.num_bytes + self.step_bytes

    def __str__(self) -> str:
        return (
            f"weights {self.weight_bytes:,} bytes + KV cache {self.kv_cache} + one step of at most "
            f"{self.step_bytes:,} bytes = {self.num_bytes:,} bytes"
        )


class MemoryBudget:
    """What was free before this process took any of it."""

    def __init__(self, config: EngineConfig, device: torch.device) -> None:
        self._config = config
        self.available_bytes = available_memory_bytes(device)
        self._shareable_bytes = shareable_memory_bytes(device)

    def plan(
        self,
        model: ModelConfig,
        *,
        max_model_len: int,
        dtype: torch.dtype,
        weight_bytes: int,
        gathers_keys: bool,
        draft_block_bytes: int = 0,
        draft_pass: ForwardPass | None = None,
    ) -> MemoryPlan:
        """Raises ModelError with the arithmetic: where it does not fit, or the KV cache would be too small.

        weight_bytes: expected from the headers of the files, then once more as they are held. gathers_keys: whether
        attention does, instead of reading them where they are. draft_pass: of a draft model of its own shape.
        """
        passes = [ForwardPass(model, gathers_keys), *([] if draft_pass is None else [draft_pass])]

        def needed(num_blocks: int) -> int:
            told = {"max_model_len": max_model_len, "dtype": dtype, "num_blocks": num_blocks}
            return step_bytes(self._config, passes, **told)

        share = None
        if (fraction := self._config.gpu_memory_fraction) is not None:
            share = MemoryShare(fraction, self._shareable_bytes, taken_bytes=weight_bytes + needed(0))
            block = block_bytes(model, self._config, dtype=dtype) + draft_block_bytes
            share = replace(share, taken_bytes=weight_bytes + needed(share.left_bytes // block))
        size = kv_cache_size(
            self._config,
            model,
            max_model_len=max_model_len,
            dtype=dtype,
            share=share,
            draft_block_bytes=draft_block_bytes,
        )
        plan = MemoryPlan(weight_bytes, size, needed(size.num_blocks))
        if plan.num_bytes > self.available_bytes:
            raise ModelError(
                f"the model does not fit into memory: {plan}, but only {self.available_bytes:,} bytes are available; "
                "make the KV cache smaller (num_blocks, kv_cache_bytes, gpu_memory_fraction), lower max_model_len, "
                "max_num_seqs or max_num_batched_tokens, or take int8 weights (quantization)"
            )
        return plan

    def check_smoothing(self, num_bytes: int) -> None:
        """num_bytes: of the weights in the dtype, which smoothing holds before they are int8. Raises ModelError."""
        if num_bytes > self.available_bytes:
            raise ModelError(
                "the model does not fit into memory: to smooth its int8 weights it is read once in "
                f"{self._config.dtype}, which takes {num_bytes:,} bytes, but only {self.available_bytes:,} bytes are "
                "available; do without smoothing (smooth_int8: false)"
            )
