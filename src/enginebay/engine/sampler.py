"""From logits to tokens: all rows of a step at once; what is drawn depends on no other row."""

from __future__ import annotations

from collections.abc import Sequence as Many

import torch

from enginebay.engine.logits import SampledToken, StepLogits
from enginebay.engine.logprobs import position_logprobs
from enginebay.engine.plan import StepPlan
from enginebay.engine.request import PositionLogprobs
from enginebay.engine.sampled_rows import sampled_tokens
from enginebay.engine.sampling_batch import SamplingBatch
from enginebay.engine.sequence import Sequence
from enginebay.engine.speculation.verifier import Verifier


class Sampler:
    def __init__(self, *, vocab_size: int, eos_token_ids: Many[int], device: torch.device | str = "cpu") -> None:
        self._vocab_size, self._eos_token_ids = vocab_size, tuple(eos_token_ids)
        self._device = torch.device(device)
        self._batch: SamplingBatch | None = None
        self._verifier = Verifier(self._new_batch)

    def sample(self, logits: StepLogits, plan: StepPlan) -> list[list[SampledToken]]:
        """For each of `plan.sampled`, in order, its token, and those behind drafts that are accepted."""
        sampled = plan.sampled
        if not sampled:
            return []
        num_sampled = len(sampled)
        with torch.inference_mode():
            batch = self._batch_of([item.sequence for item in sampled])
            tokens = [[token] for token in sampled_tokens(batch, logits.sampled[:num_sampled])]
            if len(logits.sampled) > num_sampled:
                tokens = self._verifier.verify(sampled, tokens, logits.sampled)
        return tokens

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
