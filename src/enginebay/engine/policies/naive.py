"""No batching: one request at a time, from its first token to its last."""

from __future__ import annotations

from enginebay.engine.policies.base import Policy
from enginebay.engine.sequence import Sequence


class NaivePolicy(Policy):
    """Has one slot, whatever max_num_seqs says."""

    def __init__(self, *, max_num_batched_tokens: int, chunked_prefill: bool = True) -> None:
        super().__init__(num_slots=1, max_num_batched_tokens=max_num_batched_tokens, chunked_prefill=chunked_prefill)

    def admissible(self, waiting: list[Sequence], running: list[Sequence], now: float) -> list[Sequence]:
        return [] if running else waiting[:1]
