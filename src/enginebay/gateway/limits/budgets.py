"""Budgets in money: the most that a call can cost is reserved, and what it did cost is kept until the period ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from enginebay.clock import Clock
from enginebay.config.gateway_limits import BudgetConfig, LimitsConfig
from enginebay.errors import BudgetExceeded
from enginebay.gateway.call import Call, Outcome
from enginebay.gateway.limits.demands import most_output_tokens, most_tokens
from enginebay.gateway.limits.reservations import FOR_EVER, Allowance, Demand, Reservations

Period = Literal["day", "month"]


class Pricing(Protocol):
    """Costs in billionths of the currency; None for a model that has no price."""

    def cost_nano(self, model: str, *, num_prompt_tokens: int, num_output_tokens: int) -> int | None: ...
    def cost_of(self, model: str, outcome: Outcome) -> int | None: ...


class Spending(Protocol):
    """What the ledger knows. Blocks: asked in a thread."""

    def spent_nano(self, key_id: str, *, since_unix: float) -> int:
        """Of all calls of that key which arrived since then, as far as they are written. Raises StoreUnavailable."""
        ...


class Budgets:
    def __init__(
        self,
        config: LimitsConfig,
        pricing: Pricing,
        spending: Spending,
        reservations: Reservations,
        *,
        clock: Clock,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        """clock: of the calls' arrivals."""
        self._of_key = config.key.budget
        self._of_tier: Mapping[str, BudgetConfig | None] = {name: tier.budget for name, tier in config.tiers.items()}
        self._pricing, self._spending, self._reservations = pricing, spending, reservations
        self._clock, self._unix_time = clock, unix_time
        self._seeding: dict[str, asyncio.Task[None]] = {}

    def demand(self, call: Call) -> Demand | None:
        """None where the client has no budget. Raises BudgetExceeded for a model without a price."""
        key_id = call.client.key_id
        budget = None if key_id is None else self._of_tier.get(call.client.tier, self._of_key)
        if budget is None:
            return None
        cost_nano = self._pricing.cost_nano(
            call.model,
            num_prompt_tokens=most_tokens(call) - most_output_tokens(call),
            num_output_tokens=most_output_tokens(call),
        )
        if cost_nano is None:
            raise BudgetExceeded(f"the model {call.model!r} has no price, so no key with a budget may use it")
        # the period of its arrival, as in the ledger, although its body may have taken until the next
        begin = period_begin(self._unix_time() - (self._clock.now() - call.arrived_at), budget.per)
        allowance = Allowance(
            f"key:{key_id}",
            f"budget of the {budget.per}",
            "cost_nano",
            budget.amount_nano,
            FOR_EVER,
            since_unix=begin.timestamp(),
            until_unix=period_end(begin, budget.per).timestamp(),
        )
        return Demand(allowance, cost_nano)

    def renewed_after_s(self, demand: Demand) -> float | None:
        """Until the next period; None for what is more than the whole budget."""
        allowance = demand.allowance
        return None if demand.amount > allowance.limit else max(0.0, allowance.until_unix - self._unix_time())

    def used(self, call: Call, outcome: Outcome) -> int:
        return self._pricing.cost_of(call.model, outcome) or 0

    async def seed(self, key_id: str, allowance: Allowance) -> None:
        """Tell an account what the ledger knows: a restart, of Redis too, forgives nothing. Raises StoreUnavailable."""
        seeding = self._seeding.get(allowance.account)
        if seeding is None:
            seeding = self._seeding[allowance.account] = asyncio.create_task(self._seed(key_id, allowance))
            seeding.add_done_callback(lambda done: self._seeded(allowance, done))
        await asyncio.shield(seeding)  # others may wait for it who have not left

    async def _seed(self, key_id: str, allowance: Allowance) -> None:
        spent_nano = await asyncio.to_thread(self._spending.spent_nano, key_id, since_unix=allowance.since_unix)
        await self._reservations.seed(allowance, spent_nano)

    def _seeded(self, allowance: Allowance, seeding: asyncio.Task[None]) -> None:
        del self._seeding[allowance.account]
        if not seeding.cancelled():
            seeding.exception()  # read, although everyone who waited for it may have left


def period_begin(now_unix: float, period: Period) -> datetime:
    midnight = datetime.fromtimestamp(now_unix, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if period == "day" else midnight.replace(day=1)


def period_end(begin: datetime, period: Period) -> datetime:
    return begin + timedelta(days=1) if period == "day" else (begin + timedelta(days=31)).replace(day=1)
