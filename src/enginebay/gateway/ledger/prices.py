"""What a call costs: whole billionths of the currency, so that sums of millions of rows are exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

from enginebay.gateway.call import Outcome

NANO = 10**9
PICO = 10**12
_TOKENS_PER_PRICE = 10**6
_BILLED = frozenset({"finished", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Of one model: trillionths of the currency for each token."""

    prompt_pico: int
    cached_pico: int
    """Of a prompt token that came from the prefix cache."""
    output_pico: int

    @classmethod
    def per_million(cls, *, prompt: float, cached: float | None, output: float) -> Price:
        """Prices as a price list has them. cached: None is as much as any prompt token."""
        prompt_pico = _pico_per_token(prompt)
        cached_pico = prompt_pico if cached is None else _pico_per_token(cached)
        return cls(prompt_pico=prompt_pico, cached_pico=cached_pico, output_pico=_pico_per_token(output))

    @classmethod
    def per_hour(cls, price: float, *, output_tokens_per_s: float) -> Price:
        """Of a machine that makes so many tokens a second: its output tokens carry all of it, prompts cost nothing."""
        tokens_per_hour = Decimal(str(output_tokens_per_s)) * 3600
        output_pico = _rounded(Decimal(str(price)) * PICO / tokens_per_hour)
        return cls(prompt_pico=0, cached_pico=0, output_pico=output_pico)

    def cost_nano(self, *, num_prompt_tokens: int, num_cached_tokens: int, num_output_tokens: int) -> int:
        """num_cached_tokens: those among the prompt's. Half a billionth rounds up."""
        num_fresh_tokens = max(0, num_prompt_tokens - num_cached_tokens)
        pico = num_fresh_tokens * self.prompt_pico + num_cached_tokens * self.cached_pico
        pico += num_output_tokens * self.output_pico
        return (pico + 500) // 1000


class Prices:
    """Of all models, in one currency."""

    def __init__(self, prices: Mapping[str, Price], *, currency: str) -> None:
        self._prices = dict(prices)
        self.currency = currency

    def __contains__(self, model: str) -> bool:
        return model in self._prices

    def cost_nano(
        self, model: str, *, num_prompt_tokens: int, num_output_tokens: int, num_cached_tokens: int = 0
    ) -> int | None:
        """Billionths of the currency; None for a model without a price, which is not the same as free."""
        price = self._prices.get(model)
        if price is None:
            return None
        return price.cost_nano(
            num_prompt_tokens=num_prompt_tokens,
            num_cached_tokens=num_cached_tokens,
            num_output_tokens=num_output_tokens,
        )

    def cost_of(self, model: str, outcome: Outcome) -> int | None:
        """What fails or is refused costs nothing; of a call that its client left, what the gateway received.

        model: empty for a request that never named one, which costs nothing however it ended.
        """
        if not model:
            return 0 if self._prices else None
        if outcome.kind not in _BILLED:
            return 0 if model in self._prices else None
        return self.cost_nano(
            model,
            num_prompt_tokens=outcome.num_prompt_tokens,
            num_cached_tokens=outcome.num_cached_tokens or 0,
            num_output_tokens=outcome.num_output_tokens,
        )


def money(cost_nano: int) -> Decimal:
    """In the currency, to the last billionth."""
    return Decimal(cost_nano) / NANO


def _pico_per_token(price_per_million: float) -> int:
    return _rounded(Decimal(str(price_per_million)) * PICO / _TOKENS_PER_PRICE)


def _rounded(value: Decimal) -> int:
    return int(value.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))
