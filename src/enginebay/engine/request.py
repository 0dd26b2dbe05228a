"""What goes into the engine and what comes out of it: plain values that also cross the process border."""

from __future__ import annotations

from typing import Literal

import msgspec


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request in token ids. Ranges were checked above; the engine checks what only it knows (lengths)."""

    request_id: str
    prompt_token_ids: list[int]
    max_tokens: int
    seed: int
    """Always given: noise at a position is a function of (seed, position)."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    stop_token_ids: list[int] = []
    """The request's own; the model's end-of-sequence ids are the engine's."""
    ignore_eos: bool = False
    min_tokens: int = 0
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    priority: int = 0
    resume_token_ids: list[int] = []
    """Already delivered: they count toward max_tokens, penalties and position."""
    arrived_at: float = 0.0
    """Of the monotonic clock that all processes of a machine share, as deadline_at; 0: when the engine hears of it."""
    deadline_at: float | None = None
    """For the complete output: a request that cannot make it is refused, one that is late is ended."""
    has_stop_strings: bool = False
    """Whoever submits it may cancel it at any token: max_tokens are not certain."""
    cache_salt: str = ""
    """Prefixes are shared only between requests of one salt."""

    @property
    def is_penalised(self) -> bool:
        """What it chooses depends on how often each token came before."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


class PositionLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at one position, from the raw logits: the chosen token, then the best ones, best first."""

    token_id: int
    logprob: float
    top_ids: list[int]
    top_logprobs: list[float]


class EngineOutput(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one step made for one request. `finish_reason` is set on the last one and on no other."""

    request_id: str
    token_ids: list[int]
    """New tokens, in order. A stop token or end of sequence that ended the output is included."""
    logprobs: list[PositionLogprobs] | None = None
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    """On the first output, when asked for: one for each prompt token, None for the first."""
    finish_reason: str | None = None
    """stop, length, abort, or error."""
    stop_token_id: int | None = None
    """The request's own stop token that matched; None for the model's end of sequence."""
    error: str | None = None
    error_kind: Literal["deadline"] | None = None
    """None is any other error: the request's step failed, or it could not be read."""
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    queue_s: float | None = None
    """On the first output: from the request's arrival to the start of the step that first computed for it."""


class EngineCounters(msgspec.Struct, kw_only=True):
    """Totals since start, and the state after the latest step. Names as in `enginebay.quantities`."""

    num_steps: int = 0
    step_s: float = 0.0
    model_s: float = 0.0
    sample_s: float = 0.0
    busy_s: float = 0.0
    num_computed_tokens: int = 0
    num_padding_tokens: int = 0
    num_slot_steps: int = 0
    num_idle_slot_steps: int = 0
    batch_wait_s: float = 0.0
    num_admitted: int = 0
    num_preemptions: int = 0
    num_deadline_refused: int = 0
    num_out_of_memory: int = 0
    num_discarded_tokens: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_finished_by_reason: dict[str, int] = {}
    num_running: int = 0
    num_waiting: int = 0
    batch_size: int = 0
    num_slots: int = 0
    max_num_batched_tokens: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0
    num_prefix_queried_tokens: int = 0
    num_prefix_hit_tokens: int = 0
    num_prefix_evicted_blocks: int = 0
    draft_s: float = 0.0
    num_drafts: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    num_failed_drafts: int = 0
    device_memory_bytes: int | None = None
