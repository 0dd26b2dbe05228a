"""`round_robin`: in turn, as often as their weights say, spread as evenly as that allows."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from enginebay.gateway.call import Call
from enginebay.gateway.routing.options import PolicyOptions
from enginebay.gateway.routing.policy import CandidateT, RoutingPolicy, RoutingPolicySpec
from enginebay.hookspecs import hookimpl
from enginebay.types import GenerationRequest


class RoundRobin(RoutingPolicy):
    """Smooth weighted round robin, as nginx does it: weights 5, 1, 1 give a a b a c a a, not a a a a a b c."""

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}  # of the replicas of the last choice, no others

    def choose(self, call: Call, request: GenerationRequest, candidates: Sequence[CandidateT]) -> CandidateT:
        credit = {each.name: self._credit.get(each.name, 0.0) + each.weight for each in candidates}
        chosen = max(candidates, key=lambda candidate: credit[candidate.name])
        credit[chosen.name] -= sum(candidate.weight for candidate in candidates)
        self._credit = credit
        return chosen


def _create(options: PolicyOptions, rng: Random) -> RoundRobin:
    return RoundRobin()


@hookimpl
def enginebay_routing_policy() -> RoutingPolicySpec:
    return RoutingPolicySpec(name="round_robin", options_model=PolicyOptions, create=_create)
