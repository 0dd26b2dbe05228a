"""From logits to tokens: all rows of a step at once; what is drawn depends on no other row."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from itertools import islice

import torch
from torch import Tensor

from enginebay.engine.logits import SampledToken, StepLogits
from enginebay.engine.logprobs import position_logprobs
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.request import PositionLogprobs
from enginebay.engine.sampling_batch import SamplingBatch
from enginebay.engine.sequence import Sequence
from enginebay.engine.speculation.verification import verified

UNUSABLE = "the model gave no usable logits for this sequence (not a number): its weights or the dtype are at fault"
NOTHING_LEFT = (
    "no token is left to choose from: min_tokens, logit_bias and the penalties of this request forbid every one"
)
TOO_LARGE = "logit_bias or the penalties of this request take its scores beyond what float32 can tell apart"


class Sampler:
    def __init__(self, *, vocab_size: int, eos_token_ids: Many[int], device: torch.device | str = "cpu") -> None:
        self._vocab_size, self._eos_token_ids = vocab_size, tuple(eos_token_ids)
        self._device = torch.device(device)
        self._batch: SamplingBatch | None = None

    def sample(self, logits: StepLogits, plan: StepPlan) -> list[list[SampledToken]]:
        """For each of `plan.sampled`, in order, its token, and those behind drafts that are accepted."""
        sampled = plan.sampled
        if not sampled:
            return []
        num_sampled = len(sampled)
        with torch.inference_mode():
            batch = self._batch_of([item.sequence for item in sampled])
            tokens = [[token] for token in _tokens(batch, logits.sampled[:num_sampled])]
            if len(logits.sampled) > num_sampled:
                self._verify(sampled, tokens, logits.sampled[num_sampled:])
        return tokens

    def _verify(self, sampled: Many[ScheduledSequence], tokens: list[list[SampledToken]], logits: Tensor) -> None:
        """Adds to each list the tokens that accepted drafts bring. logits: (num_drafts, vocab_size)."""
        sequences = [item.sequence for item in sampled for _ in item.draft_token_ids]
        num_ahead = [index + 1 for item in sampled for index in range(len(item.draft_token_ids))]
        rest = iter(_tokens(self._new_batch(sequences, num_ahead), logits))
        for item, own in zip(sampled, tokens, strict=True):
            if item.draft_token_ids:
                own[:] = verified(item.draft_token_ids, [*own, *islice(rest, len(item.draft_token_ids))])

    def prompt_logprobs(self, logits: StepLogits, plan: StepPlan) -> dict[int, list[PositionLogprobs]]:
        """By index in `plan.scheduled`: of positions start + 1, ..., as far as the prompt goes.

        A sequence's lists of successive steps, joined, cover its prompt but for the first token.
        """
        with torch.inference_mode():
            return {index: self._of_prompt(logits, plan, index) for index in logits.prompt}

    def _of_prompt(self, logits: StepLogits, plan: StepPlan, index: int) -> list[PositionLogprobs]:
        item = plan.scheduled[index]
        sequence = item.sequence
        end = min(item.start + item.num_new_tokens + 1, sequence.num_prompt_tokens)
        token_ids = sequence.token_ids[item.start + 1 : end]
        num_alternatives = [sequence.request.num_prompt_logprobs or 0] * len(token_ids)
        return position_logprobs(logits.prompt[index], token_ids, num_alternatives)

    def _batch_of(self, sequences: Many[Sequence]) -> SamplingBatch:
        if self._batch is None or not self._batch.is_of(sequences):
            self._batch = self._new_batch(sequences)
        return self._batch

    def _new_batch(self, sequences: Many[Sequence], num_ahead: Many[int] | None = None) -> SamplingBatch:
        return SamplingBatch(
            sequences,
            eos_token_ids=self._eos_token_ids,
            vocab_size=self._vocab_size,
            device=self._device,
            num_ahead=num_ahead,
        )


def _tokens(batch: SamplingBatch, logits: Tensor) -> list[SampledToken]:
    """One for each row of the batch. logits: (num_rows, vocab_size)."""
    scores = batch.adjusted(logits)
    best_scores, best = scores.max(dim=-1)
    token_ids = batch.drawn(scores, best_scores, best).tolist()
    errors = _errors(logits, best_scores)
    logprobs = _logprobs(batch, logits, token_ids)
    return [
        SampledToken(token_id, error=errors[row]) if row in errors else SampledToken(token_id, logprobs.get(row))
        for row, token_id in enumerate(token_ids)
    ]


def _errors(raw: Tensor, best_scores: Tensor) -> dict[int, str]:
    """By row that gives no token. The raw logits tell whether the model is at fault or the request."""
    rows = best_scores.isfinite().logical_not_().nonzero()[:, 0]
    if not len(rows):
        return {}
    is_models_fault = raw.index_select(0, rows).max(dim=-1).values.isfinite().logical_not_().tolist()
    errors: dict[int, str] = {}
    for row, is_unusable, best_score in zip(rows.tolist(), is_models_fault, best_scores[rows].tolist(), strict=True):
        errors[row] = UNUSABLE if is_unusable else NOTHING_LEFT if best_score == -math.inf else TOO_LARGE
    return errors


def _logprobs(batch: SamplingBatch, logits: Tensor, token_ids: list[int]) -> dict[int, PositionLogprobs]:
    """By row, for the rows that asked."""
    if not batch.logprob_rows:
        return {}
    rows = torch.tensor(batch.logprob_rows, device=logits.device)
    chosen = [token_ids[row] for row in batch.logprob_rows]
    reported = position_logprobs(logits.index_select(0, rows), chosen, batch.num_logprobs)
    return dict(zip(batch.logprob_rows, reported, strict=True))
