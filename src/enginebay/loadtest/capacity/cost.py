"""What a million good tokens cost at the capacity, in money and in energy.

Good tokens are the output tokens of requests that met every level. Their number per request, and the energy, are those
of the probe nearest to the capacity that was borne; the rate is the capacity itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from enginebay.loadtest.capacity.result import Cost, Probe

MILLION = 1e6
NO_PRICE = "bench.capacity.price_per_hour is not given"


def cost_at(rate_rps: float | None, probes: Sequence[Probe], *, price_per_hour: float | None) -> Cost:
    borne = [probe for probe in probes if probe.is_counted and probe.is_borne and probe.good_tokens_per_request > 0]
    if rate_rps is None or not borne:
        return _nothing("no probe was borne", price_per_hour)
    nearest = min(borne, key=lambda probe: abs(math.log(probe.rate_rps / rate_rps)))
    tokens_per_s = rate_rps * nearest.good_tokens_per_request
    # Energy of the whole probe over all tokens of it that were good.
    num_good_tokens = nearest.good_tokens_per_request * nearest.num_ended
    energy = nearest.energy
    why_not = {
        "cost_per_million_good_tokens": "" if price_per_hour is not None else NO_PRICE,
        "gpu_joules_per_million_good_tokens": energy.why_no_gpu,
        "cpu_joules_per_million_good_tokens": energy.why_no_cpu,
    }
    return Cost(
        good_tokens_per_s=tokens_per_s,
        price_per_hour=price_per_hour,
        cost_per_million_good_tokens=_per_million(price_per_hour, 3600 * tokens_per_s),
        gpu_joules_per_million_good_tokens=_per_million(energy.gpu_joules, num_good_tokens),
        cpu_joules_per_million_good_tokens=_per_million(energy.cpu_joules, num_good_tokens),
        why_not={name: why for name, why in why_not.items() if why},
        probe_rps=nearest.rate_rps,
    )


def _per_million(amount: float | None, num_tokens: float) -> float | None:
    return None if amount is None else amount / num_tokens * MILLION


def _nothing(why: str, price_per_hour: float | None) -> Cost:
    names = ("good_tokens_per_s", "cost_per_million_good_tokens")
    names += ("gpu_joules_per_million_good_tokens", "cpu_joules_per_million_good_tokens")
    return Cost(price_per_hour=price_per_hour, why_not=dict.fromkeys(names, why))
