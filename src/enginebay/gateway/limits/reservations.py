"""Reserve before, settle after: the words that every kept account shares, in memory or in Redis.

An account counts what is held by running requests and what was used by those that ended within the window:

    held + used + asked <= limit, or the request is refused

What a request holds is at least what it will use, and counts from before its first token until a window after its
last. So in no interval as long as the window is more used than the limit, whatever runs beside each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from enginebay.gateway.limits.rate_headers import ToldLimit

Measure = Literal["tokens", "requests", "cost_nano"]
NUM_SLOTS = 60
"""Of a window: what was used drops out of it a slot at a time, at most one slot late and never early."""
FOR_EVER = math.inf
RETENTION_S = 32 * 86_400
"""How long an account whose window never ends is kept after its last use: it is of one day or one month."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much of one thing one subject may have."""

    subject: str
    """`key:` or `address:`, and who."""
    what: str
    """In words: `tokens a minute`."""
    measure: Measure
    limit: int
    window_s: float
    """0: only what is held counts. FOR_EVER: what was used never drops out."""
    since_unix: float = 0.0
    """Begin of the period, of a window that never ends: each has an account of its own."""
    until_unix: float = field(default=0.0, compare=False)
    """And its end."""
    account: str = field(init=False, compare=False)
    """Its name, the same in all gateways."""
    told: ToldLimit | None = field(init=False, compare=False)
    """Of tokens in a window: how answers tell of it."""

    def __post_init__(self) -> None:
        is_rate = self.measure == "tokens" and 0 < self.window_s < FOR_EVER
        told = ToldLimit("tokens", self.limit, self.window_s) if is_rate else None
        object.__setattr__(self, "told", told)
        account = f"{self.subject}:{self.measure}:{self.window_s:g}:{self.since_unix:.0f}"
        object.__setattr__(self, "account", account)

    @property
    def retention_s(self) -> float:
        return RETENTION_S if self.window_s == FOR_EVER else self.window_s * (1 + 1 / NUM_SLOTS)


class Demand(NamedTuple):
    allowance: Allowance
    amount: int


@dataclass(frozen=True, slots=True)
class Hold:
    """All demands of one request: granted together or not at all."""

    hold_id: str
    """Never used twice, by no gateway."""
    demands: Sequence[Demand]
    num_taken: list[int] = field(default_factory=list[int], compare=False)
    """Of each demand's account when this was granted, with this."""


@dataclass(frozen=True, slots=True)
class Refusal:
    demand: Demand
    """The first that did not fit."""
    num_taken: int
    """Held and used."""
    retry_after_s: float | None
    """When enough of what was used has dropped out; None where that depends on what is held."""
    is_unseeded: bool = False
    """The account has a window that never ends, and was told nothing yet of what was used before: seed it."""


class Reservations(Protocol):
    async def reserve(self, hold: Hold) -> Refusal | None:
        """Nothing is held after a refusal. Raises StoreUnavailable."""
        ...

    def settle(self, hold: Hold, used: Sequence[int]) -> None:
        """used: of each demand, in its order. Does nothing for a hold that was never granted, or is settled already."""
        ...

    async def seed(self, allowance: Allowance, used: int) -> None:
        """What an account that nobody has used yet begins with; does nothing for any other. Raises StoreUnavailable."""
        ...

    async def aclose(self) -> None: ...
