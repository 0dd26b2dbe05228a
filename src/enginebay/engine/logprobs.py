"""Log-probabilities as they are reported: from the raw logits, before any sampling parameter."""

from __future__ import annotations

import torch
from torch import Tensor

from enginebay.engine.logits import LogitRows
from enginebay.engine.request import PositionLogprobs

ROWS_AT_A_TIME = 64
"""Bounds the memory that the log-probabilities of a long prompt take."""


def position_logprobs(logits: LogitRows, token_ids: list[int], num_alternatives: list[int]) -> list[PositionLogprobs]:
    """Of each of the first len(token_ids) rows the given token, and so many of the best."""
    reported: list[PositionLogprobs] = []
    for first in range(0, len(token_ids), ROWS_AT_A_TIME):
        rows = slice(first, min(first + ROWS_AT_A_TIME, len(token_ids)))
        reported += _reported(logits[rows], token_ids[rows], num_alternatives[rows])
    return reported


def _reported(logits: Tensor, token_ids: list[int], num_alternatives: list[int]) -> list[PositionLogprobs]:
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(-1, torch.tensor(token_ids, device=logits.device)[:, None])[:, 0].tolist()
    best = logprobs.topk(min(max(num_alternatives), logits.shape[-1]), dim=-1)
    best_logprobs, best_ids = best.values.tolist(), best.indices.tolist()
    return [
        PositionLogprobs(token_id, chosen[row], best_ids[row][:num], best_logprobs[row][:num])
        for row, (token_id, num) in enumerate(zip(token_ids, num_alternatives, strict=True))
    ]
