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
    def sample(self, logits: StepLogits, plan: StepPlan) -> list[SampledToken]:
        """One for each of `plan.sampled`, in that order."""
        ...

    def prompt_logprobs(self, logits: StepLogits, plan: StepPlan) -> dict[int, list[PositionLogprobs]]:
        """By index in `plan.scheduled`: the prompt tokens that follow each position computed in this step."""
        ...
