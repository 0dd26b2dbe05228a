"""The state of one request inside the engine."""

from __future__ import annotations

from enum import StrEnum

from enginebay.engine.request import EngineRequest


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
        "arrived_at",
        "block_table",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_preemptions",
        "num_prompt_tokens",
        "request",
        "sampler_state",
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
        self.status = SequenceStatus.WAITING
        self.arrived_at = arrived_at
        self.admitted_at: float | None = None
        self.num_preemptions = 0
        self.num_cached_tokens = 0
        self.sampler_state: object | None = None
        """Kept by the sampler from step to step (token counts for penalties); dropped on preemption."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Resumed tokens included: this is also the position of the sampling noise."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]
