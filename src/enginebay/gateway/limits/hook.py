"""Tokens, concurrency and budgets as a hook: reserved together before routing, settled at the one end of a call."""

from __future__ import annotations

from itertools import count
from secrets import token_hex

from enginebay.errors import BudgetExceeded, InvalidRequest, RateLimited, RequestError, StoreUnavailable
from enginebay.gateway.call import Call, Outcome
from enginebay.gateway.hooks import GatewayHook
from enginebay.gateway.limits.budgets import Budgets
from enginebay.gateway.limits.demands import CallDemands, most_tokens, used_tokens
from enginebay.gateway.limits.rate_headers import Headers, Left, headers_of_least
from enginebay.gateway.limits.reservations import Allowance, Demand, Hold, Refusal, Reservations

NANO = 10**9
_RETRY_AFTER_S = 1.0
"""Where room depends on requests that still run."""


class LimitsHook(GatewayHook):
    def __init__(self, demands: CallDemands, reservations: Reservations, *, budgets: Budgets | None = None) -> None:
        self._demands, self._reservations, self._budgets = demands, reservations, budgets
        self._holds: dict[int, Hold] = {}  # by the identity of calls that have not ended
        self._prefix = token_hex(8)
        self._serials = count()

    async def before_routing(self, call: Call) -> None:
        """Raises RateLimited, BudgetExceeded, StoreUnavailable, or InvalidRequest for what could never fit."""
        demands = self._demands.of(call, most_tokens(call))
        if self._budgets is not None and (cost := self._budgets.demand(call)) is not None:
            demands.append(cost)
        if not demands:
            return
        hold = self._holds[id(call)] = Hold(f"{self._prefix}{next(self._serials):x}", demands)
        refusal = await self._reservations.reserve(hold)
        if refusal is not None and refusal.is_unseeded:
            refusal = await self._reserve_seeded(call, hold, refusal)
        if refusal is not None:
            del self._holds[id(call)]
            call.answer_headers += _headers_of(refusal)
            raise self._refused(refusal)
        call.answer_headers += _headers_of_granted(hold)

    async def _reserve_seeded(self, call: Call, hold: Hold, refusal: Refusal) -> Refusal | None:
        """The first call of a key in a period; its budget is the only account that needs a seed."""
        assert self._budgets is not None
        assert call.client.key_id is not None
        await self._budgets.seed(call.client.key_id, refusal.demand.allowance)
        refused = await self._reservations.reserve(hold)
        if refused is not None and refused.is_unseeded:
            raise StoreUnavailable("the account of a budget was lost while it was filled: try again")
        return refused

    def at_end(self, call: Call, outcome: Outcome) -> None:
        hold = self._holds.pop(id(call), None)
        if hold is not None:
            self._reservations.settle(hold, [self._used(demand, call, outcome) for demand in hold.demands])

    def _refused(self, refusal: Refusal) -> RequestError:
        if refusal.demand.allowance.measure != "cost_nano" or self._budgets is None:
            return _rate_refused(refusal)
        (allowance, amount), num_taken = refusal.demand, refusal.num_taken
        left = max(0, allowance.limit - num_taken) / NANO
        return BudgetExceeded(
            f"{_who(allowance)} has {left:.6g} left of its {allowance.what}, and this request may cost "
            f"{amount / NANO:.6g}: ask for fewer tokens, or for a larger budget",
            retry_after_s=self._budgets.renewed_after_s(refusal.demand),
        )

    @property
    def num_held(self) -> int:
        """Calls that hold a reservation."""
        return len(self._holds)

    def _used(self, demand: Demand, call: Call, outcome: Outcome) -> int:
        match demand.allowance.measure:
            case "tokens":
                return used_tokens(outcome)
            case "cost_nano":
                return self._budgets.used(call, outcome) if self._budgets is not None else 0
            case "requests":
                return 0  # only running ones count


def _headers_of_granted(hold: Hold) -> Headers:
    least: Left | None = None
    for demand, num_taken in zip(hold.demands, hold.num_taken, strict=True):
        allowance = demand.allowance
        if allowance.told is not None and (least is None or allowance.limit - num_taken < least.num_left):
            least = Left(allowance.told, allowance.limit - num_taken)
    return headers_of_least(least)


def _headers_of(refusal: Refusal) -> Headers:
    allowance = refusal.demand.allowance
    return [] if allowance.told is None else allowance.told.headers(max(0, allowance.limit - refusal.num_taken))


def _rate_refused(refusal: Refusal) -> RequestError:
    allowance, amount = refusal.demand
    limit = f"{_who(allowance)} may have {allowance.limit} {allowance.what}"
    if amount > allowance.limit:
        return InvalidRequest(f"{limit}, and this request alone asks for {amount}: lower max_tokens or the prompt")
    retry_after_s = refusal.retry_after_s or _RETRY_AFTER_S
    return RateLimited(
        f"{limit}: {refusal.num_taken} are taken, and this request asks for {amount}; try again later",
        retry_after_s=retry_after_s,
    )


def _who(allowance: Allowance) -> str:
    return "this API key" if allowance.subject.startswith("key:") else "this address"
