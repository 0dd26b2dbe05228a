"""`least_loaded`: the replica with the fewest requests in flight for its weight."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from enginebay.gateway.call import Call
from enginebay.gateway.routing.load import least_loaded
from enginebay.gateway.routing.options import PolicyOptions
from enginebay.gateway.routing.policy import CandidateT, RoutingPolicy, RoutingPolicySpec
from enginebay.hookspecs import hookimpl
from enginebay.types import GenerationRequest


class LeastLoaded(RoutingPolicy):
    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, call: Call, request: GenerationRequest, candidates: Sequence[CandidateT]) -> CandidateT:
        return least_loaded(candidates, self._rng)


@hookimpl
def enginebay_routing_policy() -> RoutingPolicySpec:
    return RoutingPolicySpec(
        name="least_loaded", options_model=PolicyOptions, create=lambda options, rng: LeastLoaded(rng)
    )
