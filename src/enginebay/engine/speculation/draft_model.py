"""A smaller model that drafts: another one, or the model itself, cut off or in int8."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from enginebay.engine.draw import draw_tokens
from enginebay.engine.noise import DRAFTS
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.sampling_batch import GREEDY_TEMPERATURE, SamplingBatch
from enginebay.engine.sequence import Sequence
from enginebay.engine.speculation.proposer import Draft, Wanted
from enginebay.engine.step_input import StepInputBuilder

if TYPE_CHECKING:
    from enginebay.engine.layer_cache import LayerCache
    from enginebay.engine.model import CausalLM


class DraftRunner(Protocol):
    @property
    def shares_cache(self) -> bool:
        """It reads and writes the model's own keys and values, which verification writes again: it is never behind.

        Otherwise it has a cache of its own under the same block ids, and catches up as it is asked.
        """
        ...

    def logits(self, plan: StepPlan) -> Tensor:
        """(num_sampled, vocab_size) float32, in the order of `plan.sampled`."""
        ...


@dataclass(frozen=True, slots=True)
class DraftModel:
    model: CausalLM
    caches: Many[LayerCache]
    """One for each of its layers."""
    step_inputs: StepInputBuilder
    shares_cache: bool

    def logits(self, plan: StepPlan) -> Tensor:
        with torch.inference_mode():
            step = self.step_inputs.build(plan)
            hidden = self.model.forward(step, self.caches)
            return self.model.logits(hidden.index_select(0, step.sampled_rows))


class DraftModelProposer:
    """One forward pass for each token, over all sequences that draft.

    A token is drafted as the request would draw it, with noise of its own, and what it was drawn from is kept for
    `rejection`; of a greedy request it is the best one. Wrong keys and values in the draft's cache make worse drafts,
    never other output.
    """

    def __init__(
        self,
        runner: DraftRunner,
        *,
        vocab_size: int,
        eos_token_ids: Many[int],
        device: torch.device,
        max_num_batched_tokens: int,
        draws: bool = True,
    ) -> None:
        """max_num_batched_tokens: of prompts that it has not seen, in one step.

        draws: False takes the best token for every request. Fewer are accepted then, but the output is, for every
        seed, what it is without drafts.
        """
        self._runner = runner
        self._vocab_size, self._eos_token_ids, self._device = vocab_size, eos_token_ids, device
        self._max_num_batched_tokens, self._draws = max_num_batched_tokens, draws

    def propose(self, wanted: Many[Wanted]) -> list[Draft]:
        plan = self._first_plan(wanted)
        drafting = {id(item.sequence): _Drafting(item.sequence) for item in plan.sampled}
        num_tokens = {id(one.sequence): one.num_tokens for one in wanted}
        while plan.scheduled:
            self._draft_one(plan, drafting)
            plan = StepPlan(
                [
                    _next(one)
                    for one in drafting.values()
                    if not one.has_failed and len(one.token_ids) < num_tokens[id(one.sequence)]
                ]
            )
        return [drafting[id(one.sequence)].draft() if id(one.sequence) in drafting else Draft([]) for one in wanted]

    def _first_plan(self, wanted: Many[Wanted]) -> StepPlan:
        """What it has not seen of each sequence, in order; who does not come to the end drafts in a later step."""
        plan = StepPlan([])
        budget = self._max_num_batched_tokens
        for one in wanted:
            start = self._num_seen(one.sequence)
            num_new_tokens = min(one.sequence.num_tokens - start, budget)
            if num_new_tokens > 0:
                is_last = start + num_new_tokens == one.sequence.num_tokens
                plan.scheduled.append(ScheduledSequence(one.sequence, start, num_new_tokens, samples=is_last))
                budget -= num_new_tokens
        return plan

    def _num_seen(self, sequence: Sequence) -> int:
        return sequence.num_computed_tokens if self._runner.shares_cache else sequence.num_draft_computed_tokens

    def _draft_one(self, plan: StepPlan, drafting: dict[int, _Drafting]) -> None:
        """One more token of each that is sampled."""
        logits = self._runner.logits(plan)
        for item in plan.scheduled:
            item.sequence.num_draft_computed_tokens = item.start + item.num_new_tokens
        sampled = [drafting[id(item.sequence)] for item in plan.sampled]
        if sampled:
            with torch.inference_mode():
                self._choose(sampled, logits)

    def _choose(self, drafting: list[_Drafting], logits: Tensor) -> None:
        batch = self._batch(drafting)
        scores = logits if batch is None else batch.adjusted(logits)
        best_scores, best = scores.max(dim=-1)
        chosen = best.tolist()
        probabilities: dict[int, Tensor] = {}
        if batch is not None and self._draws and (rows := batch.drawn_rows):
            drawn = batch.probabilities(scores, best_scores)
            for row, own, token_id in zip(rows, drawn, draw_tokens(drawn, batch.noise(DRAFTS)).tolist(), strict=True):
                chosen[row], probabilities[row] = token_id, own
        for row, (one, is_usable) in enumerate(zip(drafting, best_scores.isfinite().tolist(), strict=True)):
            one.take(chosen[row], probabilities.get(row), is_usable=is_usable)

    def _batch(self, drafting: list[_Drafting]) -> SamplingBatch | None:
        """None where every request takes the best token as it is."""
        sequences = [one.sequence for one in drafting]
        if not any(_shapes_logits(sequence) for sequence in sequences):
            return None
        return SamplingBatch(
            sequences,
            eos_token_ids=self._eos_token_ids,
            vocab_size=self._vocab_size,
            device=self._device,
            num_ahead=[len(one.token_ids) for one in drafting],
        )


class _Drafting:
    """A draft that grows."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.token_ids: list[int] = []
        self.has_failed = False
        self._probabilities: list[Tensor] = []

    def take(self, token_id: int, probabilities: Tensor | None, *, is_usable: bool) -> None:
        if not is_usable:
            self.has_failed = True
            return
        self.token_ids.append(token_id)
        if probabilities is not None:
            self._probabilities.append(probabilities)

    def draft(self) -> Draft:
        return Draft(self.token_ids, torch.stack(self._probabilities) if self._probabilities else None)


def _next(drafting: _Drafting) -> ScheduledSequence:
    """Compute the newest token of a draft."""
    start = drafting.sequence.num_tokens + len(drafting.token_ids) - 1
    return ScheduledSequence(drafting.sequence, start, 1, samples=True, draft_token_ids=drafting.token_ids)


def _shapes_logits(sequence: Sequence) -> bool:
    request = sequence.request
    return request.temperature >= GREEDY_TEMPERATURE or bool(request.logit_bias) or request.min_tokens > 0
