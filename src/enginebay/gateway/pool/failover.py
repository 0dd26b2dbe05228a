"""How a stream goes on in another replica: what was delivered already is handed over as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from enginebay.gateway.pool.replica import Replica
from enginebay.types import Feature, GenerationChunk, GenerationRequest, Usage

Resumed = Literal["exact", "approximate"]
INVARIANT = "batch_invariant"
"""The setting of the reference engine under which a token depends on its own sequence alone."""


class Progress:
    """What one choice has delivered, over all of its attempts."""

    __slots__ = ("_can_resume", "_first", "_is_again", "_num_resumed", "_prompt_told", "request", "token_ids")

    def __init__(self, request: GenerationRequest) -> None:
        self._first = request
        self.request = request
        """What the next attempt asks for."""
        self.token_ids: list[int] = []
        """All that was delivered, in order."""
        self._is_again = False
        self._num_resumed = 0
        self._can_resume = True
        self._prompt_told = False

    @property
    def has_begun(self) -> bool:
        """Whether the client may have seen anything: from then on it can only go on, not begin again."""
        return bool(self.token_ids) or not self._can_resume

    def taken(self, chunk: GenerationChunk) -> GenerationChunk:
        """The chunk as its client should see it, who knows of one stream."""
        if chunk.token_ids is not None:
            self.token_ids += chunk.token_ids
        elif chunk.num_tokens or chunk.text or chunk.reasoning_text:
            self._can_resume = False
        if chunk.tool_call_deltas or chunk.reasoning_text:
            self._can_resume = False  # their parsers stand in the middle of something
        was_told, self._prompt_told = self._prompt_told, self._prompt_told or chunk.prompt is not None
        if not self._is_again:
            return chunk
        return replace(
            chunk,
            prompt=None if was_told else chunk.prompt,
            usage=None if chunk.usage is None else _with_resumed(chunk.usage, self._num_resumed),
        )

    def can_go_on_in(self, replica: Replica) -> bool:
        """Whether it gives the rest of the answer there: exactly, or as well as that engine can."""
        if not self._can_resume or Feature.RESUME not in replica.backend.info.capabilities:
            return False
        return len(self.token_ids) + len(self._first.resume_token_ids) < self._first.sampling.max_tokens

    def go_on(self) -> None:
        """Let the next attempt ask for what is missing: everything, where nothing was delivered."""
        self._is_again = True
        self._num_resumed = len(self.token_ids)
        resumed = (*self._first.resume_token_ids, *self.token_ids)
        self.request = replace(self._first, resume_token_ids=resumed)


def exactness(request: GenerationRequest, before: Replica, after: Replica) -> Resumed:
    """`exact`: both engines say that what they give depends on nothing but the request, and its noise has a seed."""
    is_chosen_by_request = request.sampling.temperature == 0 or request.sampling.seed is not None
    settings = before.backend.info.effective_settings, after.backend.info.effective_settings
    same_engine = before.backend.info.kind == after.backend.info.kind
    same_model = before.backend.info.model == after.backend.info.model
    is_exact = is_chosen_by_request and same_engine and same_model and all(map(_is_invariant, settings))
    return "exact" if is_exact else "approximate"


def _is_invariant(settings: Mapping[str, object]) -> bool:
    return settings.get(INVARIANT) is True


def _with_resumed(usage: Usage, num_resumed: int) -> Usage:
    return replace(usage, num_output_tokens=usage.num_output_tokens + num_resumed)
