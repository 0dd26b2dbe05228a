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
        self._min_p = min_p[:, None]
        self._top_k = torch.where((top_k > 0) & (top_k < vocab_size), top_k, vocab_size)
        self._top_p = top_p.double()[:, None]
        self._has_min_p, self._has_top_p = bool((min_p > 0).any()), bool((top_p < 1).any())
        limited = self._top_k[self._top_k < vocab_size]
        self._max_top_k = int(limited.max()) if len(limited) else 0

    def apply(self, weights: Tensor) -> None:
        """weights: (num_rows, vocab_size), probabilities relative to the best token's; zeroed in place.

        Order as in vLLM: min-p, top-k, and top-p of what is left.
        """
        if self._has_min_p:
            weights.masked_fill_(weights < self._min_p, 0)
        if self._max_top_k:
            weights.masked_fill_(weights < self._top_k_threshold(weights), 0)
        if self._has_top_p:
            weights.masked_fill_(weights < self._top_p_threshold(weights), 0)

    def _top_k_threshold(self, weights: Tensor) -> Tensor:
        """(num_rows, 1): the weight of the last of the top_k best."""
        best = weights.topk(self._max_top_k, dim=-1).values
        last = best.gather(-1, (self._top_k.clamp(max=self._max_top_k) - 1)[:, None])
        return last.masked_fill((self._top_k > self._max_top_k)[:, None], 0)

    def _top_p_threshold(self, weights: Tensor) -> Tensor:
        """(num_rows, 1): the weight of the last token of the smallest set of best tokens that reaches top_p."""
        wanted = self._top_p * _row_sums(weights)
        is_off = self._top_p >= 1
        num_candidates = min(max(FIRST_NUM_CANDIDATES, self._max_top_k), weights.shape[-1])
        while True:
            best = weights.topk(num_candidates, dim=-1).values
            num_kept = (best.cumsum(-1, dtype=torch.float64) < wanted).sum(-1, keepdim=True) + 1
            if num_candidates == weights.shape[-1] or bool(((num_kept <= num_candidates) | is_off).all()):
                break
            num_candidates = min(8 * num_candidates, weights.shape[-1])
        last = best.gather(-1, num_kept.clamp(max=num_candidates) - 1)
        return last.masked_fill(is_off, 0)


def _row_sums(weights: Tensor) -> Tensor:
    """(num_rows, 1) float64. PyTorch shares the sum of a lone long row out among its threads, which rounds otherwise
    than the same row beside another: so none is ever alone.
    """
    rows = weights.expand(2, -1) if len(weights) == 1 else weights
    return rows.sum(-1, keepdim=True, dtype=torch.float64)[: len(weights)]
