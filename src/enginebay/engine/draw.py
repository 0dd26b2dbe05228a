"""Drawing one token of each row from its weights: the inverse of the cumulative distribution, summed in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_SIZE = 256
"""Tokens whose weights are summed first: only the block that is hit is summed token by token."""


def draw_tokens(weights: Tensor, noise: Tensor) -> Tensor:
    """weights: (num_rows, vocab_size), 0 for what may not be drawn; noise: (num_rows,) in (0, 1) -> (num_rows,).

    Tokens stand in vocabulary order, so the token is a function of the row's weights and its noise alone. A row of
    weights that are no numbers gives some token of the vocabulary, to be thrown away.
    """
    last_token = weights.shape[-1] - 1
    if padding := -weights.shape[-1] % BLOCK_SIZE:
        weights = functional.pad(weights, (0, padding))
    blocks = weights.view(len(weights), -1, BLOCK_SIZE)
    up_to_block = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    target = noise[:, None] * up_to_block[:, -1:]
    block = _first_above(up_to_block, target)
    before_block = functional.pad(up_to_block, (1, 0)).gather(-1, block)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]].cumsum(-1, dtype=torch.float64)
    drawn = block * BLOCK_SIZE + _first_above(inside, target - before_block)
    return drawn[:, 0].clamp(max=last_token)


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """(num_rows, 1): where `cumulative` first exceeds `target`; never a place of weight 0, whatever the rounding."""
    total = cumulative[:, -1:]
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).clamp(max=cumulative.shape[-1] - 1)
