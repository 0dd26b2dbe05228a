"""What is counted about requests as they pass: the request half of the metric catalogue."""

from __future__ import annotations

from collections import Counter, deque

from enginebay.clock import Clock
from enginebay.quantities import INTER_TOKEN_LATENCY, REQUEST_LATENCY, TIME_TO_FIRST_TOKEN
from enginebay.statistics.histogram import Histogram

TOKEN_RATE_WINDOW_S = 10
CANCELLED, REFUSED, ERROR = "cancelled", "refused", "error"
"""Outcomes beside the finish reasons."""


class RequestMetrics:
    """Of one backend. Touched by its event loop alone."""

    def __init__(self, clock: Clock) -> None:
        self.num_in_flight = 0
        self.num_requests_by_outcome: Counter[str] = Counter()
        self.num_output_tokens = 0
        self.num_prompt_tokens = 0
        self.request_latency_s = Histogram(REQUEST_LATENCY.buckets)
        self.ttft_s = Histogram(TIME_TO_FIRST_TOKEN.buckets)
        self.itl_s = Histogram(INTER_TOKEN_LATENCY.buckets)
        self._token_rate = TokenRate(clock)

    def count_tokens(self, num_tokens: int) -> None:
        self.num_output_tokens += num_tokens
        self._token_rate.add(num_tokens)

    @property
    def output_tokens_per_s(self) -> float:
        return self._token_rate.per_second()


class TokenRate:
    """Tokens of the last ten seconds, in slots of one second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._past: deque[tuple[int, int]] = deque()  # (second, tokens) before the running one, ascending
        self._second = int(clock.now())
        self._num_tokens = 0

    def add(self, num_tokens: int) -> None:
        second = int(self._clock.now())
        if second != self._second:
            self._turn_to(second)
        self._num_tokens += num_tokens

    def per_second(self) -> float:
        """The running second counts in full, so a steady rate is overstated by at most a tenth."""
        self._turn_to(int(self._clock.now()))
        return (self._num_tokens + sum(num_tokens for _, num_tokens in self._past)) / TOKEN_RATE_WINDOW_S

    def _turn_to(self, second: int) -> None:
        if second != self._second:
            self._past.append((self._second, self._num_tokens))
            self._second, self._num_tokens = second, 0
        while self._past and self._past[0][0] <= second - TOKEN_RATE_WINDOW_S:
            self._past.popleft()


class RequestRecorder:
    """One request's passage: made when it begins, ended exactly once, on every path."""

    __slots__ = ("_arrived_at", "_last_token_at", "_metrics", "_num_prompt_tokens", "_num_tokens", "_times_tokens")

    def __init__(self, metrics: RequestMetrics, arrived_at: float, *, times_tokens: bool = True) -> None:
        """times_tokens: false for an answer that is asked for in one piece, which says nothing of its tokens."""
        self._metrics = metrics
        self._arrived_at = arrived_at
        self._times_tokens = times_tokens
        self._last_token_at: float | None = None
        self._num_tokens = 0
        self._num_prompt_tokens = 0
        metrics.num_in_flight += 1

    def tokens(self, num_tokens: int, received_at: float) -> None:
        """Tokens that came together share their arrival: one gap, the others zero."""
        if num_tokens <= 0:
            return
        if self._times_tokens:
            self._observe_gaps(num_tokens, received_at)
        self._last_token_at = received_at
        self._num_tokens += num_tokens
        self._metrics.count_tokens(num_tokens)

    def _observe_gaps(self, num_tokens: int, received_at: float) -> None:
        metrics = self._metrics
        if self._last_token_at is None:
            metrics.ttft_s.observe(max(0.0, received_at - self._arrived_at))
        else:
            metrics.itl_s.observe(max(0.0, received_at - self._last_token_at))
        if num_tokens > 1:
            metrics.itl_s.observe(0.0, num_tokens - 1)

    def prompt(self, num_prompt_tokens: int) -> None:
        self._metrics.num_prompt_tokens += num_prompt_tokens - self._num_prompt_tokens
        self._num_prompt_tokens = num_prompt_tokens

    def settle(self, num_output_tokens: int) -> None:
        """The engine's own count decides: what passed uncounted is added."""
        num_uncounted = max(0, num_output_tokens - self._num_tokens)
        self._metrics.count_tokens(num_uncounted)
        self._num_tokens += num_uncounted

    def end(self, outcome: str, ended_at: float) -> None:
        self._metrics.num_in_flight -= 1
        self._metrics.num_requests_by_outcome[outcome] += 1
        self._metrics.request_latency_s.observe(max(0.0, ended_at - self._arrived_at))
