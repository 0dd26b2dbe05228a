"""What one step takes at most beside weights and KV cache: an estimate that is added up before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from enginebay.engine.kv_cache import is_int8_kv_cache
from enginebay.engine.logprobs import ROWS_AT_A_TIME
from enginebay.engine.model_config import ModelConfig
from enginebay.engine.settings import EngineConfig
from enginebay.engine.step_input import MIN_GROUP_BLOCKS

LOGIT_COPIES = 11
"""Of each row that is sampled, in float32: as computed, those that are drawn or verified together, as adjusted, what is
drawn of them, relative to the best, sorting for top-p with the order of the tokens (five), and counts for penalties."""
LOGIT_COPIES_BESIDE_PROMPT = 3
"""Of them there still are while the log-probabilities of prompts are looked at: as computed, and the counts."""
PROMPT_LOGIT_COPIES = 2
"""Of as many rows of a prompt as are looked at together: as computed, and their log-probabilities."""
GROUP_PADDING = 2
"""Contexts that are gathered together are padded to the longest of them, which is less than twice the shortest."""


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """One of those that a step makes, one after the other: of a draft model, if there is one, and of the model."""

    model: ModelConfig
    gathers_keys: bool
    """Attention does, instead of reading them where they are."""
    is_draft: bool = False


def step_bytes(
    config: EngineConfig, passes: Sequence[ForwardPass], *, max_model_len: int, dtype: torch.dtype, num_blocks: int
) -> int:
    """The larger of the passes, and the logits. num_blocks: of the KV cache. A draft of the model's own layers takes no
    more than the model: it needs no pass of its own here.
    """
    largest = max(
        forward_bytes(config, one.model, max_model_len=max_model_len, dtype=dtype)
        + gathered_bytes(config, one, max_model_len=max_model_len, dtype=dtype, num_blocks=num_blocks)
        for one in passes
    )
    return largest + logit_bytes(config, passes[0].model.vocab_size)


def forward_bytes(config: EngineConfig, model: ModelConfig, *, max_model_len: int, dtype: torch.dtype) -> int:
    """With T = max_num_batched_tokens, L = max_model_len:

    activations of the widest moment of one layer  T * (3 hidden + 2 (queries + keys and values) + 3 inner) in the dtype
    mask of prompts computed in chunks             T * L in the dtype
    """
    num_tokens = config.max_num_batched_tokens
    heads = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    activations = num_tokens * (3 * model.hidden_size + 2 * heads + 3 * model.intermediate_size) * dtype.itemsize
    return activations + num_tokens * max_model_len * dtype.itemsize


def logit_bytes(config: EngineConfig, vocab_size: int) -> int:
    """In float32, S rows being sampled: 11 copies of them, and what each draft was drawn from, kept until it is
    verified; or 3 copies beside the log-probabilities of a prompt, 64 rows at a time and one of those by itself.
    """
    num_rows = _num_sampled_rows(config)
    num_drawn_drafts = num_rows - min(_num_slots(config), num_rows) if _has_draft_model(config) else 0
    num_prompt_rows = min(ROWS_AT_A_TIME, config.max_num_batched_tokens)
    most = max(
        LOGIT_COPIES * num_rows + num_drawn_drafts,
        LOGIT_COPIES_BESIDE_PROMPT * num_rows + PROMPT_LOGIT_COPIES * (num_prompt_rows + 1),
    )
    return most * vocab_size * 4


def gathered_bytes(
    config: EngineConfig, one: ForwardPass, *, max_model_len: int, dtype: torch.dtype, num_blocks: int
) -> int:
    """Where attention does not read keys and values in their blocks it gathers those of one layer, for every row that
    decodes: at most a whole context for each, and, unless many share a prefix, what the cache holds, padded. A draft is
    verified in a row of its own, which gathers the context of its sequence once more.
    """
    if not one.gathers_keys:
        return 0
    num_slots = _num_slots(config)
    num_rows = num_slots if one.is_draft else _num_sampled_rows(config)
    num_held = GROUP_PADDING * num_blocks * config.block_size * -(-num_rows // num_slots)
    smallest_groups = num_rows * 2 * MIN_GROUP_BLOCKS * config.block_size
    num_tokens = min(num_rows * max_model_len, num_held + smallest_groups)
    return num_tokens * 2 * one.model.num_kv_heads * one.model.head_dim * gathered_itemsize(config, dtype)


def gathered_itemsize(config: EngineConfig, dtype: torch.dtype) -> int:
    """Of int8 there are the integers, what they are in float32, and that in the dtype."""
    return 1 + torch.float32.itemsize + dtype.itemsize if is_int8_kv_cache(config) else dtype.itemsize


def _num_slots(config: EngineConfig) -> int:
    return 1 if config.policy == "naive" else config.max_num_seqs


def _num_sampled_rows(config: EngineConfig) -> int:
    """One for each slot, and one more for each draft; never more than a step has tokens."""
    num_drafts = config.speculative_num_tokens if _has_draft_model(config) else config.speculative_ngram or 0
    return min(_num_slots(config) * (1 + num_drafts), config.max_num_batched_tokens)


def _has_draft_model(config: EngineConfig) -> bool:
    return config.speculative_draft_dir is not None or config.speculative_self_draft is not None
