"""The loads of the gateway's streams: how many are open at a time, and when each begins."""

from __future__ import annotations

from dataclasses import dataclass

from stream_figures import has_own_step
from ticking_server import OWN_STEP

from enginebay.loadtest.plan import PlannedRequest
from enginebay.types import SamplingParams

ORDER = ("direct", "gateway", "gateway", "direct")
TICKS_PER_S, STREAM_S = 20.0, 5.0
SPARE = 1.02
"""Streams begin this much more often than they must, for an instant between one that ends and the next."""
NUM_HELD, HELD_TICKS_PER_S, HELD_S, HELD_RAMP_S = 1000, 1.0, 30, 5.0
WARM_UP_S = 1.0
PROMPT = "eight words make the prompt of this request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """So many streams at a time; each has `num_tokens`, and they begin at `rate` a second."""

    name: str
    tokens_per_s: float
    num_tokens: int
    rate: float
    num_requests: int
    window: tuple[float, float]
    """Seconds of the run in which all of them are open."""
    order: tuple[str, ...]

    def requests(self) -> list[PlannedRequest]:
        return [self._request(index) for index in range(self.num_requests)]

    def _request(self, index: int) -> PlannedRequest:
        sampling = SamplingParams(max_tokens=self.num_tokens, temperature=0.0)
        return PlannedRequest(
            index=index,
            text=f"{OWN_STEP}: {PROMPT}" if has_own_step(index) else PROMPT,
            num_prompt_tokens=8,
            offset_s=WARM_UP_S + index / self.rate,
            sampling=sampling,
        )


def steady(num_streams: int, seconds: float) -> Case:
    """Streams of STREAM_S, each followed by another."""
    num_tokens = round(STREAM_S * TICKS_PER_S) + 1
    rate = SPARE * num_streams / STREAM_S
    full_at = WARM_UP_S + STREAM_S + 1.0
    return Case(
        name=f"{num_streams} streams at {TICKS_PER_S:g} tokens/s",
        tokens_per_s=TICKS_PER_S,
        num_tokens=num_tokens,
        rate=rate,
        num_requests=round(rate * (STREAM_S + 1.0 + seconds)),
        window=(full_at, full_at + seconds),
        order=ORDER,
    )


def held() -> Case:
    """All open at the same time, and no other after them."""
    full_at = WARM_UP_S + HELD_RAMP_S
    return Case(
        name=f"{NUM_HELD} streams at {HELD_TICKS_PER_S:g} token/s",
        tokens_per_s=HELD_TICKS_PER_S,
        num_tokens=HELD_S + 1,
        rate=NUM_HELD / HELD_RAMP_S,
        num_requests=NUM_HELD,
        window=(full_at, WARM_UP_S + HELD_S - 2.0),
        order=("direct", "gateway"),
    )
