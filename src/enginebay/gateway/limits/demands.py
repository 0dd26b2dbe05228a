"""What one call asks of the accounts of its key and its address, and what it used of that in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from enginebay.config.gateway_limits import LimitsConfig, LimitSet
from enginebay.gateway.call import Call, Outcome
from enginebay.gateway.limits.addresses import counted_address
from enginebay.gateway.limits.reservations import Allowance, Demand

MINUTE_S, DAY_S = 60.0, 86_400.0
_NUM_CACHED = 1_000
"""Of keys, and of addresses: each is a kilobyte, and made again in microseconds."""


class CallDemands:
    """Of tokens and concurrency. A call of a client without a key has its address alone."""

    def __init__(self, config: LimitsConfig) -> None:
        self._of_key, self._of_address = config.key, config.address
        self._of_tier: Mapping[str, LimitSet] = config.tiers
        self._key_allowances = lru_cache(maxsize=_NUM_CACHED)(self._allowances_of_key)
        self._address_allowances = lru_cache(maxsize=_NUM_CACHED)(self._allowances_of_address)

    def of(self, call: Call, num_tokens: int) -> list[Demand]:
        """num_tokens: as many as it can use."""
        client = call.client
        allowances = self._address_allowances(client.address)
        if client.key_id is not None:
            allowances = (*self._key_allowances(client.key_id, client.tier), *allowances)
        return [Demand(one, num_tokens if one.measure == "tokens" else 1) for one in allowances]

    def _allowances_of_key(self, key_id: str, tier: str) -> Sequence[Allowance]:
        return _allowances(self._of_tier.get(tier, self._of_key), f"key:{key_id}")

    def _allowances_of_address(self, address: str) -> Sequence[Allowance]:
        return _allowances(self._of_address, f"address:{counted_address(address)}")


def most_tokens(call: Call) -> int:
    """Prompt and answers. Where the prompt is not counted its bytes stand in: no token is shorter than one."""
    num_prompt_tokens = call.num_prompt_tokens if call.num_prompt_tokens is not None else call.body_bytes
    return num_prompt_tokens + most_output_tokens(call)


def most_output_tokens(call: Call) -> int:
    return sum(request.sampling.max_tokens for request in call.requests)


def used_tokens(outcome: Outcome) -> int:
    """Of a call that failed before its first token, none: nobody knows how far its prompt was computed."""
    if outcome.kind == "refused" or (outcome.kind == "failed" and not outcome.num_output_tokens):
        return 0
    return outcome.num_prompt_tokens + outcome.num_output_tokens


def _allowances(limits: LimitSet, subject: str) -> Sequence[Allowance]:
    allowances: list[Allowance] = []
    if (limit := limits.concurrent_requests) is not None:
        allowances.append(Allowance(subject, "requests at the same time", "requests", limit, 0))
    if (limit := limits.tokens_per_minute) is not None:
        allowances.append(Allowance(subject, "tokens a minute", "tokens", limit, MINUTE_S))
    if (limit := limits.tokens_per_day) is not None:
        allowances.append(Allowance(subject, "tokens a day", "tokens", limit, DAY_S))
    return allowances
