"""min-p, top-k and top-p as one threshold per row. Tokens that tie with the last one kept are kept too."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_NUM_CANDIDATES = 64
"""Top-p looks at so many of the best tokens first, and at eight times as many where they do not suffice:
sorting a whole vocabulary in every step would cost as much as the model."""


class Filters:
    """Parameters of the rows that are drawn; each (num_rows,). Off is min_p 0, top_k 0, top_p 1."""

    def __init__(self, *, min_p: Tensor, top_k: Tensor, top_p: Tensor, vocab_size: int) -> None:
        self._log_min_p = min_p.log()[:, None]
        self._top_k = torch.where((top_k > 0) & (top_k < vocab_size), top_k, vocab_size)
        self._top_p = top_p.double()[:, None]
        self._has_min_p, self._has_top_p = bool((min_p > 0).any()), bool((top_p < 1).any())
        limited = self._top_k[self._top_k < vocab_size]
        self._max_top_k = int(limited.max()) if len(limited) else 0

    def apply(self, scores: Tensor) -> Tensor:
        """scores: (num_rows, vocab_size) after temperature. Order as in vLLM: min-p, top-k, top-p."""
        if self._has_min_p:
            scores = _at_least(scores, scores.amax(-1, keepdim=True) + self._log_min_p)
        if self._max_top_k:
            best = scores.topk(self._max_top_k, dim=-1).values
            last = best.gather(-1, (self._top_k.clamp(max=self._max_top_k) - 1)[:, None])
            is_limited = (self._top_k <= self._max_top_k)[:, None]
            scores = _at_least(scores, last.masked_fill(~is_limited, float("-inf")))
        if self._has_top_p:
            scores = _at_least(scores, self._top_p_threshold(scores))
        return scores

    def _top_p_threshold(self, scores: Tensor) -> Tensor:
        """(num_rows, 1): the score of the last token of the smallest set of best tokens that reaches top_p."""
        log_total = scores.double().logsumexp(-1, keepdim=True)
        num_candidates = min(max(FIRST_NUM_CANDIDATES, self._max_top_k), scores.shape[-1])
        while True:
            best = scores.topk(num_candidates, dim=-1).values
            cumulative = (best.double() - log_total).exp().cumsum(-1)
            num_kept = (cumulative < self._top_p).sum(-1, keepdim=True) + 1
            if num_candidates == scores.shape[-1] or bool(((num_kept <= num_candidates) | (self._top_p >= 1)).all()):
                break
            num_candidates = min(8 * num_candidates, scores.shape[-1])
        threshold = best.gather(-1, num_kept.clamp(max=num_candidates) - 1)
        return threshold.masked_fill(self._top_p >= 1, float("-inf"))


def _at_least(scores: Tensor, threshold: Tensor) -> Tensor:
    return scores.masked_fill(scores < threshold, float("-inf"))
