"""What the engine needs of the model runner and the sampler; tests put simple ones in their place, without torch."""

from __future__ import annotations

from typing import Protocol

from enginebay.engine.logits import SampledToken, StepLogits
from enginebay.engine.plan import StepPlan
from enginebay.engine.request import PositionLogprobs


class Runner(Protocol):
    def forward(self, plan: StepPlan) -> StepLogits:
        """Compute the new tokens of every scheduled sequence and write their keys and values into its blocks."""
        ...

    def device_memory_bytes(self) -> int | None:
        """None on a CPU."""
        ...


class TokenSampler(Protocol):
    def sample(self, logits: StepLogits, plan: StepPlan) -> list[list[SampledToken]]:
        """For each of `plan.sampled`, in that order, one token, and one more for each of its drafts that is accepted.

        An error is the only one of its list.
        """
        ...

    def prompt_logprobs(self, logits: StepLogits, plan: StepPlan) -> dict[int, list[PositionLogprobs]]:
        """By index in `plan.scheduled`: the prompt tokens that follow each position computed in this step."""
        ...
