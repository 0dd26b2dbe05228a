"""Which drafts are kept, where they were drawn from a distribution q: rejection sampling.

A draft d is kept with probability min(1, p(d) / q(d)), p being what the model itself would draw from at that place. The
first that is not is replaced by a draw from (p - q)+, renormalised; if all are kept, one more is drawn from p. The
output then has the distribution p exactly, whatever q is. p and q are both meant after logit_bias, min_tokens,
temperature and filters of the request.
Source: Leviathan et al. 2023, algorithm 1 and appendix A.1 (arXiv:2211.17192).
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
from torch import Tensor

from enginebay.engine.draw import draw_tokens


@dataclass(frozen=True, slots=True)
class DrawnDraft:
    token_ids: list[int]
    probabilities: Tensor
    """(num_drafts, vocab_size): q, a row for each token; each gives its own token more than 0."""


def accepted_or_redrawn(
    target: Tensor, drafts: Many[DrawnDraft], *, acceptance_noise: Tensor, token_noise: Tensor
) -> list[list[int]]:
    """The tokens of each sequence: 1 to num_drafts + 1.

    target: (num_rows, vocab_size), p; a sequence has a row for each draft and one for what follows the last, one
    sequence after the other. Both noises: (num_rows,) in (0, 1), independent of each other and of the drafts.
    """
    first_rows = _first_rows(drafts)
    num_accepted = _num_accepted(target, drafts, first_rows, noise=acceptance_noise)
    ends = [first + number for first, number in zip(first_rows, num_accepted, strict=True)]
    remaining = target[torch.tensor(ends, device=target.device)]
    for row, draft, number in zip(remaining, drafts, num_accepted, strict=True):
        if number < len(draft.token_ids):
            _subtract(row, draft.probabilities[number])
    drawn = draw_tokens(remaining, token_noise[torch.tensor(ends, device=token_noise.device)]).tolist()
    return [
        [*draft.token_ids[:number], token_id]
        for draft, number, token_id in zip(drafts, num_accepted, drawn, strict=True)
    ]


def _num_accepted(target: Tensor, drafts: Many[DrawnDraft], first_rows: Many[int], *, noise: Tensor) -> list[int]:
    """All comparisons at once, then how far each sequence comes."""
    rows = [first + index for first, draft in zip(first_rows, drafts, strict=True) for index in range(_length(draft))]
    places = torch.tensor(rows, device=target.device)
    token_ids = torch.tensor([token_id for draft in drafts for token_id in draft.token_ids], device=target.device)
    proposed = torch.cat([_of_its_tokens(draft, target.device) for draft in drafts])
    kept = (noise[places] * proposed < target[places, token_ids]).tolist()
    numbers: list[int] = []
    for one in drafts:
        own, kept = kept[: _length(one)], kept[_length(one) :]
        numbers.append(own.index(False) if False in own else len(own))
    return numbers


def _of_its_tokens(draft: DrawnDraft, device: torch.device) -> Tensor:
    """(num_drafts,): q of each token that was drawn."""
    return draft.probabilities.gather(1, torch.tensor(draft.token_ids, device=device)[:, None])[:, 0]


def _subtract(row: Tensor, draft: Tensor) -> None:
    """row becomes (p - q)+, in place. p and q that differ by rounding alone can leave nothing: then it stays p."""
    difference = (row - draft).clamp_(min=0)
    if bool(difference.sum() > 0):
        row.copy_(difference)


def _first_rows(drafts: Many[DrawnDraft]) -> list[int]:
    first_rows = [0]
    for draft in drafts:
        first_rows.append(first_rows[-1] + _length(draft) + 1)
    return first_rows[:-1]


def _length(draft: DrawnDraft) -> int:
    return len(draft.token_ids)
