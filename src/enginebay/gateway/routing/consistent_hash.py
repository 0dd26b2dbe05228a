"""`consistent_hash`: a session stays with its replica, and only those of a replica that goes away move."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from math import inf
from random import Random
from typing import Annotated

from pydantic import Field

from enginebay.gateway.call import Call
from enginebay.gateway.routing.load import least_loaded, mean_load
from enginebay.gateway.routing.options import PolicyOptions
from enginebay.gateway.routing.policy import CandidateT, RoutingPolicy, RoutingPolicySpec
from enginebay.hookspecs import hookimpl
from enginebay.types import GenerationRequest

NUM_POINTS = 100
"""Of a replica of weight 1 on the ring."""
NUM_RINGS = 32
"""Kept, for the sets of replicas that were available last."""

Ring = tuple[list[int], list[int]]
"""Points, ascending, and the index of the candidate that each belongs to."""


class ConsistentHashOptions(PolicyOptions):
    max_load_ratio: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(
        default=1.25, description="A replica with more than this times the mean load is passed over."
    )


class ConsistentHash(RoutingPolicy):
    """With bounded loads: a replica that is too full hands a session on to the next of the ring.

    The session is the request's `session_key`; a request without one goes to the least loaded replica.
    Source: Mirrokni, Thorup, Zadimoghaddam 2016 (arXiv:1608.01350).
    """

    def __init__(self, options: ConsistentHashOptions, rng: Random) -> None:
        self._max_load_ratio, self._rng = options.max_load_ratio, rng
        self._rings: OrderedDict[tuple[tuple[str, float], ...], Ring] = OrderedDict()
        self._lightest = inf
        """Of all that were seen: the points of a replica must not change because another one went away."""

    def choose(self, call: Call, request: GenerationRequest, candidates: Sequence[CandidateT]) -> CandidateT:
        if request.session_key is None:
            return least_loaded(candidates, self._rng)
        points, owners = self._ring(candidates)
        most = self._max_load_ratio * mean_load(candidates, num_more=1)
        start = bisect_right(points, _hash(request.session_key))
        for step in range(len(points)):
            candidate = candidates[owners[(start + step) % len(points)]]
            if candidate.num_in_flight + 1 <= max(1.0, most * candidate.weight):
                return candidate
        return least_loaded(candidates, self._rng)

    def _ring(self, candidates: Sequence[CandidateT]) -> Ring:
        key = tuple((candidate.name, candidate.weight) for candidate in candidates)
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = _new_ring(key, self._weight_of_fewest_points(key))
            if len(self._rings) > NUM_RINGS:
                self._rings.popitem(last=False)
        else:
            self._rings.move_to_end(key)
        return ring

    def _weight_of_fewest_points(self, replicas: Sequence[tuple[str, float]]) -> float:
        lightest = min(weight for _, weight in replicas)
        if lightest < self._lightest:
            self._lightest = lightest
            for known in [known for known in self._rings if known != replicas]:
                del self._rings[known]
        return self._lightest


def _new_ring(replicas: Sequence[tuple[str, float]], lightest: float) -> Ring:
    points = sorted(
        (_hash(f"{name}#{index}"), owner)
        for owner, (name, weight) in enumerate(replicas)
        for index in range(min(100 * NUM_POINTS, round(NUM_POINTS * weight / lightest)))
    )
    return [point for point, _ in points], [owner for _, owner in points]


def _hash(text: str) -> int:
    """The same in every process: several gateways send a session to one replica."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


@hookimpl
def enginebay_routing_policy() -> RoutingPolicySpec:
    return RoutingPolicySpec(name="consistent_hash", options_model=ConsistentHashOptions, create=ConsistentHash)
