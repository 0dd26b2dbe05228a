"""`power_of_two`: the less loaded of two that are drawn.

For several gateways over the same replicas: none sees the other's requests, and the least loaded one of all would
get a herd. Source: Mitzenmacher 2001, "The power of two choices in randomized load balancing".
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from enginebay.gateway.call import Call
from enginebay.gateway.routing.load import drawn
from enginebay.gateway.routing.options import PolicyOptions
from enginebay.gateway.routing.policy import CandidateT, RoutingPolicy, RoutingPolicySpec
from enginebay.hookspecs import hookimpl
from enginebay.types import GenerationRequest


class PowerOfTwo(RoutingPolicy):
    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, call: Call, request: GenerationRequest, candidates: Sequence[CandidateT]) -> CandidateT:
        first = drawn(candidates, self._rng)
        others = [candidate for candidate in candidates if candidate is not first]
        if not others:
            return first
        second = drawn(others, self._rng)
        return second if second.load < first.load else first


@hookimpl
def enginebay_routing_policy() -> RoutingPolicySpec:
    return RoutingPolicySpec(
        name="power_of_two", options_model=PolicyOptions, create=lambda options, rng: PowerOfTwo(rng)
    )
