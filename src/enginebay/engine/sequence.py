"""The state of one request inside the engine."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from enginebay.engine.request import EngineRequest, PositionLogprobs

if TYPE_CHECKING:
    from enginebay.engine.speculation.draft_length import DraftLength
    from enginebay.engine.speculation.ngram import NgramIndex


class SequenceStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """Tokens, blocks and progress of one request.

    token_ids = prompt + resumed + sampled. There is no prefill phase: `num_computed_tokens` catches up with
    `num_tokens`, and a token is sampled in the step in which it does.
    """

    __slots__ = (
        "admitted_at",
        "arrival_index",
        "arrived_at",
        "block_names",
        "block_table",
        "draft_length",
        "has_draft_failed",
        "is_prompt_reported",
        "ngram_index",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_draft_computed_tokens",
        "num_learnt_blocks",
        "num_preemptions",
        "num_prompt_tokens",
        "prompt_logprobs",
        "request",
        "status",
        "token_ids",
    )

    def __init__(self, request: EngineRequest, *, arrived_at: float) -> None:
        self.request = request
        self.token_ids: list[int] = [*request.prompt_token_ids, *request.resume_token_ids]
        self.num_prompt_tokens = len(request.prompt_token_ids)
        self.num_computed_tokens = 0
        self.block_table: list[int] = []
        """Blocks that hold positions [0, block_size), [block_size, 2 * block_size), ...; owned until freed."""
        self.block_names: list[bytes] = []
        """Of its full blocks, as far as the prefix cache has asked for them."""
        self.num_learnt_blocks = 0
        """Leading blocks that the prefix cache has seen full."""
        self.status = SequenceStatus.WAITING
        self.arrived_at = arrived_at
        self.arrival_index = 0
        """Given by the scheduler, one up for each request: a total order even between equal instants."""
        self.admitted_at: float | None = None
        self.num_preemptions = 0
        self.num_cached_tokens = 0
        self.prompt_logprobs: list[PositionLogprobs | None] | None = None
        """Collected while the prompt is computed, when asked for; None before and after."""
        self.is_prompt_reported = False
        """The prompt was computed, counted, and its log-probabilities handed out: not again after a preemption."""
        self.draft_length: DraftLength | None = None
        self.ngram_index: NgramIndex | None = None
        """What speculation knows of this sequence; None until it has drafted."""
        self.has_draft_failed = False
        """Nothing is drafted for it any more."""
        self.num_draft_computed_tokens = 0
        """Positions whose keys and values of a draft model with a cache of its own stand in the blocks."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    def max_num_computed_tokens(self, max_model_len: int) -> int:
        """Positions that are computed if it runs to its limit: the last token it samples never is."""
        if self.request.max_tokens == 0:
            return self.num_tokens
        return min(self.num_prompt_tokens + self.request.max_tokens, max_model_len) - 1

    @property
    def order(self) -> tuple[int, int]:
        """Who comes first: smaller priority, then earlier arrival."""
        return self.request.priority, self.arrival_index

    @property
    def queue_s(self) -> float | None:
        """None before it was admitted."""
        return None if self.admitted_at is None else max(0.0, self.admitted_at - self.arrived_at)

    @property
    def num_output_tokens(self) -> int:
        """Resumed tokens included: this is also the position of the sampling noise."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]
