"""Rows of logits and what comes of them: tokens, errors, log-probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from enginebay.engine.logits import SampledToken
from enginebay.engine.logprobs import position_logprobs
from enginebay.engine.request import PositionLogprobs
from enginebay.engine.sampling_batch import SamplingBatch

UNUSABLE = "the model gave no usable logits for this sequence (not a number): its weights or the dtype are at fault"
NOTHING_LEFT = (
    "no token is left to choose from: min_tokens, logit_bias and the penalties of this request forbid every one"
)
TOO_LARGE = "logit_bias or the penalties of this request take its scores beyond what float32 can tell apart"


def sampled_tokens(batch: SamplingBatch, logits: Tensor) -> list[SampledToken]:
    """One for each row of the batch. logits: (num_rows, vocab_size)."""
    scores = batch.adjusted(logits)
    best_scores, best = scores.max(dim=-1)
    token_ids = batch.drawn(scores, best_scores, best).tolist()
    errors = row_errors(logits, best_scores)
    logprobs = row_logprobs(batch, logits, token_ids)
    return [
        SampledToken(token_id, error=errors[row]) if row in errors else SampledToken(token_id, logprobs.get(row))
        for row, token_id in enumerate(token_ids)
    ]


def row_errors(raw: Tensor, best_scores: Tensor) -> dict[int, str]:
    """By row that gives no token. The raw logits tell whether the model is at fault or the request."""
    rows = best_scores.isfinite().logical_not_().nonzero()[:, 0]
    if not len(rows):
        return {}
    is_models_fault = raw.index_select(0, rows).max(dim=-1).values.isfinite().logical_not_().tolist()
    errors: dict[int, str] = {}
    for row, is_unusable, best_score in zip(rows.tolist(), is_models_fault, best_scores[rows].tolist(), strict=True):
        errors[row] = UNUSABLE if is_unusable else NOTHING_LEFT if best_score == -math.inf else TOO_LARGE
    return errors


def row_logprobs(batch: SamplingBatch, logits: Tensor, token_ids: list[int]) -> dict[int, PositionLogprobs]:
    """By row, for the rows that asked."""
    if not batch.logprob_rows:
        return {}
    rows = torch.tensor(batch.logprob_rows, device=logits.device)
    chosen = [token_ids[row] for row in batch.logprob_rows]
    reported = position_logprobs(logits.index_select(0, rows), chosen, batch.num_logprobs)
    return dict(zip(batch.logprob_rows, reported, strict=True))
