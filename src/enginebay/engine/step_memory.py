"""What one step takes at most beside weights and KV cache: an estimate that is added up before anything is loaded."""

from __future__ import annotations

import torch

from enginebay.engine.model_config import ModelConfig
from enginebay.engine.settings import EngineConfig
from enginebay.engine.step_input import MIN_GROUP_BLOCKS

LOGIT_COPIES = 5
"""Of each row of logits, in float32: as computed, as adapted, sorted, and the order, which takes two."""


GROUP_PADDING = 2
"""Contexts that are gathered together are padded to the longest of them, which is less than twice the shortest."""


def step_bytes(config: EngineConfig, model: ModelConfig, *, max_model_len: int, dtype: torch.dtype) -> int:
    """With T = max_num_batched_tokens, L = max_model_len and S rows that are sampled:

    activations of the widest moment of one layer  T * (3 hidden + 2 (queries + keys and values) + 3 inner) in the dtype
    mask of prompts computed in chunks             T * L in the dtype
    logits                                         S * vocabulary * 4 bytes * 5 copies
    """
    num_tokens = config.max_num_batched_tokens
    heads = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    activations = num_tokens * (3 * model.hidden_size + 2 * heads + 3 * model.intermediate_size) * dtype.itemsize
    mask = num_tokens * max_model_len * dtype.itemsize
    return activations + mask + _num_sampled_rows(config) * model.vocab_size * 4 * LOGIT_COPIES


def gathered_bytes(
    config: EngineConfig, model: ModelConfig, *, max_model_len: int, dtype: torch.dtype, num_blocks: int
) -> int:
    """Where attention does not read keys and values in their blocks it gathers those of one layer, for everyone who
    decodes: at most a whole context for each slot, and, unless many share a prefix, what the cache holds, padded.
    """
    num_slots = _num_slots(config)
    smallest_groups = num_slots * 2 * MIN_GROUP_BLOCKS * config.block_size
    num_held = GROUP_PADDING * num_blocks * config.block_size + smallest_groups
    num_tokens = min(num_slots * max_model_len, num_held)
    return num_tokens * 2 * model.num_kv_heads * model.head_dim * dtype.itemsize


def _num_slots(config: EngineConfig) -> int:
    return 1 if config.policy == "naive" else config.max_num_seqs


def _num_sampled_rows(config: EngineConfig) -> int:
    """One for each slot, and one more for each draft; never more than a step has tokens."""
    has_draft_model = config.speculative_draft_dir is not None or config.speculative_self_draft is not None
    num_drafts = config.speculative_num_tokens if has_draft_model else config.speculative_ngram or 0
    return min(_num_slots(config) * (1 + num_drafts), config.max_num_batched_tokens)
