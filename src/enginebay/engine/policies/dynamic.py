"""Continuous batching whose number of slots and token budget follow the queue."""

from __future__ import annotations

from enginebay.engine.policies.batch_rules import BatchBounds, BatchRule, BatchSize, Load
from enginebay.engine.policies.continuous import ContinuousPolicy


class DynamicPolicy(ContinuousPolicy):
    """A batch that shrinks evicts nobody: it admits nobody until enough have ended."""

    def __init__(self, rule: BatchRule, bounds: BatchBounds, *, chunked_prefill: bool = True) -> None:
        super().__init__(
            num_slots=bounds.most.num_slots,
            max_num_batched_tokens=bounds.most.max_num_batched_tokens,
            chunked_prefill=chunked_prefill,
        )
        self._rule, self._bounds = rule, bounds
        self._size = BatchSize(0, 0)
        self._since: float | None = None

    def resize(self, *, num_waiting: int, num_running: int, now: float) -> None:
        since = now if self._since is None else self._since
        load = Load(num_waiting=num_waiting, num_running=num_running, now=now, size=self._size, since=since)
        chosen = self._within_bounds(self._rule(load, self._bounds))
        if chosen != self._size:
            self._size, self._since = chosen, now
            self.num_slots, self.max_num_batched_tokens = chosen.num_slots, chosen.max_num_batched_tokens

    def _within_bounds(self, size: BatchSize) -> BatchSize:
        most = self._bounds.most
        return BatchSize(
            min(max(1, size.num_slots), most.num_slots),
            min(max(self._bounds.fewest_tokens, size.max_num_batched_tokens), most.max_num_batched_tokens),
        )
