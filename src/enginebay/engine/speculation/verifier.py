"""Checks the drafts of a step against the logits: what each sequence gives, and no draft shows in its distribution."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise

import torch
from torch import Tensor

from enginebay.engine.logits import SampledToken
from enginebay.engine.noise import ACCEPTANCE, TOKENS
from enginebay.engine.plan import ScheduledSequence
from enginebay.engine.sampled_rows import row_errors, row_logprobs, sampled_tokens
from enginebay.engine.sampling_batch import SamplingBatch
from enginebay.engine.sequence import Sequence
from enginebay.engine.speculation.rejection import DrawnDraft, accepted_or_redrawn
from enginebay.engine.speculation.verification import verified

MakeBatch = Callable[[Many[Sequence], Many[int]], SamplingBatch]
"""Of the sequences of the rows, and of the drafts that come before each row."""


@dataclass(frozen=True, slots=True)
class _Drafted:
    index: int
    """In `plan.sampled`: also the row of its newest token."""
    item: ScheduledSequence
    rows: range
    """Of its drafts."""


class Verifier:
    def __init__(self, make_batch: MakeBatch) -> None:
        self._make_batch = make_batch

    def verify(
        self, sampled: Many[ScheduledSequence], tokens: list[list[SampledToken]], logits: Tensor
    ) -> list[list[SampledToken]]:
        """sampled: `plan.sampled`; tokens: what follows the newest token of each; logits: `StepLogits.sampled`.

        The same with the tokens that accepted drafts bring.
        """
        first_rows = accumulate((len(item.draft_token_ids) for item in sampled), initial=len(sampled))
        drafted = [
            _Drafted(index, item, range(start, end))
            for index, (item, (start, end)) in enumerate(zip(sampled, pairwise(first_rows), strict=True))
            if start < end and tokens[index][0].error is None
        ]
        found = dict(enumerate(tokens))
        if certain := [one for one in drafted if one.item.draft_probabilities is None]:
            found |= self._verified_certain(certain, tokens, logits)
        if drawn := [one for one in drafted if one.item.draft_probabilities is not None]:
            found |= self._verified_drawn(drawn, logits)
        return list(found.values())

    def _verified_certain(
        self, drafted: Many[_Drafted], tokens: list[list[SampledToken]], logits: Tensor
    ) -> dict[int, list[SampledToken]]:
        """By index; see `verification`."""
        rows = [row for one in drafted for row in one.rows]
        batch = self._make_batch(
            [one.item.sequence for one in drafted for _ in one.rows],
            [number for one in drafted for number in range(1, len(one.rows) + 1)],
        )
        behind = iter(sampled_tokens(batch, _taken(logits, rows)))
        return {
            one.index: verified(one.item.draft_token_ids, [*tokens[one.index], *islice(behind, len(one.rows))])
            for one in drafted
        }

    def _verified_drawn(self, drafted: Many[_Drafted], logits: Tensor) -> dict[int, list[SampledToken]]:
        """By index; see `rejection`. A sequence with a row that gives no token is left out: it keeps the token that was
        drawn from its first row, and nothing of its draft.
        """
        batch = self._make_batch(
            [one.item.sequence for one in drafted for _ in range(len(one.rows) + 1)],
            [number for one in drafted for number in range(len(one.rows) + 1)],
        )
        own_logits = _taken(logits, [row for one in drafted for row in (one.index, *one.rows)])
        scores = batch.adjusted(own_logits)
        best_scores = scores.max(dim=-1).values
        token_ids = accepted_or_redrawn(
            batch.probabilities(scores, best_scores),
            [_drawn_draft(one.item) for one in drafted],
            acceptance_noise=batch.noise(ACCEPTANCE),
            token_noise=batch.noise(TOKENS),
        )
        padded = [[*ids, *[0] * (len(one.rows) + 1 - len(ids))] for one, ids in zip(drafted, token_ids, strict=True)]
        logprobs = row_logprobs(batch, own_logits, [token_id for ids in padded for token_id in ids])
        errors = row_errors(own_logits, best_scores)
        ends = accumulate((len(ids) for ids in padded), initial=0)
        return {
            one.index: [SampledToken(token_id, logprobs.get(start + at)) for at, token_id in enumerate(ids)]
            for one, ids, (start, end) in zip(drafted, token_ids, pairwise(ends), strict=True)
            if not any(row in errors for row in range(start, end))
        }


def _taken(logits: Tensor, rows: list[int]) -> Tensor:
    """Rows that stand together are not copied."""
    if rows == list(range(rows[0], rows[-1] + 1)):
        return logits[rows[0] : rows[-1] + 1]
    return logits.index_select(0, torch.tensor(rows, device=logits.device))


def _drawn_draft(item: ScheduledSequence) -> DrawnDraft:
    assert item.draft_probabilities is not None
    return DrawnDraft(item.draft_token_ids, item.draft_probabilities)
