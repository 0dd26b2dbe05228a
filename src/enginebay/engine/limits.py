"""What fits in this engine. Checked before a request is accepted, on either side of the process border."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from enginebay.engine.request import EngineRequest
from enginebay.engine.sequence import Sequence
from enginebay.errors import ContextTooLong, InvalidRequest


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    max_model_len: int
    num_blocks: int
    block_size: int
    vocab_size: int

    def check(self, request: EngineRequest) -> None:
        """Raise InvalidRequest or ContextTooLong for a request that could not be computed, or never end."""
        if not request.prompt_token_ids:
            raise InvalidRequest("the prompt has no tokens", field="prompt")
        if request.max_tokens < 0:
            raise InvalidRequest(f"max_tokens must be 0 or more, not {request.max_tokens}", field="max_tokens")
        self._check_vocabulary("prompt", request.prompt_token_ids)
        self._check_vocabulary("resume_token_ids", request.resume_token_ids)
        self._check_vocabulary("stop_token_ids", request.stop_token_ids)
        self._check_vocabulary("logit_bias", request.logit_bias)
        self._check_length(request)

    def _check_vocabulary(self, field: str, token_ids: Iterable[int]) -> None:
        if not token_ids:
            return
        for token_id in (min(token_ids), max(token_ids)):
            if not 0 <= token_id < self.vocab_size:
                raise InvalidRequest(
                    f"{field} has the token id {token_id}; this model's are 0 to {self.vocab_size - 1}", field=field
                )

    def _check_length(self, request: EngineRequest) -> None:
        num_prompt_tokens = len(request.prompt_token_ids)
        room_for_output = 1 if request.max_tokens > 0 else 0
        if num_prompt_tokens + room_for_output > self.max_model_len:
            raise ContextTooLong(num_tokens=num_prompt_tokens, limit=self.max_model_len)
        num_positions = Sequence(request, arrived_at=0.0).max_num_computed_tokens(self.max_model_len)
        capacity = self.num_blocks * self.block_size
        if num_positions > capacity:
            field = "prompt" if num_prompt_tokens >= capacity else "max_tokens"
            raise ContextTooLong(
                num_tokens=num_prompt_tokens, limit=capacity, max_tokens=request.max_tokens, field=field
            )
