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
    best = _best(logprobs, min(max(num_alternatives), logits.shape[-1]))
    best_ids, best_logprobs = best.tolist(), logprobs.gather(-1, best).tolist()
    return [
        PositionLogprobs(token_id, chosen[row], best_ids[row][:num], best_logprobs[row][:num])
        for row, (token_id, num) in enumerate(zip(token_ids, num_alternatives, strict=True))
    ]


def _best(logprobs: Tensor, num: int) -> Tensor:
    """(num_rows, num) token ids, best first; of equal ones, which bfloat16 logits often are, the smaller id first.

    topk alone breaks ties as it happens to find them, which depends on how many it is asked for, and so on the
    neighbours.
    """
    if num == 0:
        return torch.empty((len(logprobs), 0), dtype=torch.int64, device=logprobs.device)
    return torch.stack([_best_of_row(row, num) for row in logprobs])


def _best_of_row(logprobs: Tensor, num: int) -> Tensor:
    token_ids = (logprobs >= logprobs.topk(num).values[-1]).nonzero()[:, 0]
    return token_ids[logprobs[token_ids].sort(descending=True, stable=True).indices[:num]]
