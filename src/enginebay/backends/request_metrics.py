"""What this side of the process border sees of its requests: latencies, outcomes, delivered tokens."""

from __future__ import annotations

from collections import Counter

from enginebay.quantities import LATENCY_BUCKETS_S, TOKEN_GAP_BUCKETS_S
from enginebay.statistics.histogram import Histogram
from enginebay.types import GenerationChunk


class RequestMetrics:
    """Totals since start, over all streams of one backend."""

    def __init__(self) -> None:
        self.ttft_s = Histogram(LATENCY_BUCKETS_S)
        self.inter_token_s = Histogram(TOKEN_GAP_BUCKETS_S)
        self.tpot_s = Histogram(TOKEN_GAP_BUCKETS_S)
        self.e2e_s = Histogram(LATENCY_BUCKETS_S)
        self.queue_s = Histogram(LATENCY_BUCKETS_S)
        self.outcomes: Counter[str] = Counter()
        self.num_prompt_tokens = 0
        self.num_output_tokens = 0
        self.num_discarded_tokens = 0
        self.num_deadline_exceeded = 0

    def begin(self, *, arrived_at: float) -> RequestTimes:
        return RequestTimes(self, arrived_at=arrived_at)


class RequestTimes:
    """The instants of one request. It ends once: with its last chunk, or with whatever `end` finds."""

    __slots__ = ("_first_token_at", "_has_ended", "_last_token_at", "_metrics", "_num_tokens", "_outcome", "arrived_at")

    def __init__(self, metrics: RequestMetrics, *, arrived_at: float) -> None:
        self.arrived_at = arrived_at
        self._metrics = metrics
        self._has_ended = False
        self._first_token_at: float | None = None
        self._last_token_at = arrived_at
        self._num_tokens = 0
        self._outcome = "error"

    def prompt(self, num_tokens: int) -> None:
        self._metrics.num_prompt_tokens += num_tokens

    def queued(self, queue_s: float | None) -> None:
        """As the engine tells with a request's first output; None with the others."""
        if queue_s is not None:
            self._metrics.queue_s.observe(queue_s)

    def chunk(self, chunk: GenerationChunk) -> None:
        if chunk.num_tokens:
            self._tokens(chunk.num_tokens, received_at=chunk.received_at)
        if chunk.usage is not None:
            self._metrics.num_discarded_tokens += chunk.usage.num_discarded_tokens
        if chunk.finish_reason is not None:
            self._outcome = chunk.finish_reason.value
            self.end()

    def cancelled(self) -> None:
        self._outcome = "abort"

    def end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        metrics = self._metrics
        metrics.outcomes[self._outcome] += 1
        if self._first_token_at is None:
            return
        metrics.e2e_s.observe(self._last_token_at - self.arrived_at)
        if self._num_tokens > 1:
            metrics.tpot_s.observe((self._last_token_at - self._first_token_at) / (self._num_tokens - 1))

    def _tokens(self, num_tokens: int, *, received_at: float) -> None:
        """Tokens that arrive together share their arrival: all but the first of them have a gap of zero."""
        metrics = self._metrics
        num_together = num_tokens - 1
        if self._first_token_at is None:
            self._first_token_at = received_at
            metrics.ttft_s.observe(received_at - self.arrived_at)
        else:
            metrics.inter_token_s.observe(received_at - self._last_token_at)
        if num_together:
            metrics.inter_token_s.observe(0.0, num_times=num_together)
        self._last_token_at = received_at
        self._num_tokens += num_tokens
        metrics.num_output_tokens += num_tokens
