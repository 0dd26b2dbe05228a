"""What answers tell of limits, in OpenAI's names: `x-ratelimit-limit-requests` and its like."""

from __future__ import annotations

from typing import Literal, NamedTuple

Headers = list[tuple[bytes, bytes]]


class ToldLimit:
    """One limit of requests or tokens. Two of its three headers are always the same."""

    __slots__ = ("_limit", "_remaining", "_reset")

    def __init__(self, what: Literal["requests", "tokens"], limit: int, window_s: float) -> None:
        self._limit = (f"x-ratelimit-limit-{what}".encode(), b"%d" % limit)
        self._remaining = f"x-ratelimit-remaining-{what}".encode()
        # a moving window is whole again when it has passed without a request, and not before
        self._reset = (f"x-ratelimit-reset-{what}".encode(), duration(window_s).encode())

    def headers(self, num_left: int) -> Headers:
        return [self._limit, (self._remaining, b"%d" % num_left), self._reset]


class Left(NamedTuple):
    """Of one limit, after the request that asks."""

    told: ToldLimit
    num_left: int


def headers_of_least(*lefts: Left | None) -> Headers:
    """Of several limits the one that will be reached first."""
    least: Left | None = None
    for left in lefts:
        if left is not None and (least is None or left.num_left < least.num_left):
            least = left
    return [] if least is None else least.told.headers(least.num_left)


def duration(seconds: float) -> str:
    """As OpenAI writes it, which is Go's way: `1s`, `1m0s`, `24h0m0s`."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours}h{minutes}m{rest:g}s"
    return f"{minutes}m{rest:g}s" if minutes else f"{rest:g}s"
