"""When a sequence has ended."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from enginebay.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Ending:
    finish_reason: str
    stop_token_id: int | None = None
    """The request's own stop token; None for the model's end of sequence and for a limit."""


def find_ending(sequence: Sequence, *, eos_token_ids: AbstractSet[int], max_model_len: int) -> Ending | None:
    """Look at the newest token alone. A stop counts only once there are min_tokens output tokens."""
    request = sequence.request
    num_output_tokens = sequence.num_output_tokens
    if num_output_tokens and num_output_tokens >= request.min_tokens:
        token_id = sequence.token_ids[-1]
        if token_id in eos_token_ids and not request.ignore_eos:
            return Ending("stop")
        if token_id in request.stop_token_ids:
            return Ending("stop", token_id)
    if num_output_tokens >= request.max_tokens or sequence.num_tokens >= max_model_len:
        return Ending("length")
    return None
