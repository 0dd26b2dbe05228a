"""What passes between the model runner, the sampler and the engine. Needs no torch to be imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from enginebay.engine.request import PositionLogprobs

if TYPE_CHECKING:
    from torch import Tensor


class LogitRows(Protocol):
    """Rows of logits that may be made only as they are taken; a Tensor is one too."""

    def __getitem__(self, rows: slice, /) -> Tensor:
        """(num_rows, vocab_size) float32"""
        ...


@dataclass(frozen=True, slots=True)
class StepLogits:
    sampled: Tensor
    """(num_sampled + num_drafts, vocab_size) float32: first a row for each of `plan.sampled`, what follows its newest
    token; then, in the same order, the rows of their drafts."""
    prompt: dict[int, LogitRows] = field(default_factory=dict)
    """By index in `plan.scheduled`: num_new_tokens rows of a sequence that asked for the log-probabilities of
    its prompt and was not given them yet, in steps that still compute tokens of the prompt."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    token_id: int
    logprobs: PositionLogprobs | None = None
    """When the request asked for them."""
    error: str | None = None
    """Set when the row gives no token (NaN, or every token is forbidden): this sequence has failed, no other has."""
