"""What a routing policy is. A third party's is one file with the hook below, under an entry point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

import pluggy

from enginebay.gateway.call import Call
from enginebay.hookspecs import PROJECT
from enginebay.types import GenerationRequest

hookspec = pluggy.HookspecMarker(PROJECT)
ENTRY_POINT_GROUP = "enginebay.routing"


class Candidate(Protocol):
    """A replica as policies see it."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def num_in_flight(self) -> int: ...

    @property
    def load(self) -> float:
        """`num_in_flight / weight`."""
        ...


CandidateT = TypeVar("CandidateT", bound=Candidate)


class RoutingPolicy(Protocol):
    """One for each pool; called on the event loop, so it returns at once and keeps a bounded memory.

    What is in flight is counted by the pool, before the next choice is made: a policy that keeps counts of its own
    would have to be told of each way in which a request can end.
    """

    def choose(self, call: Call, request: GenerationRequest, candidates: Sequence[CandidateT]) -> CandidateT:
        """One of `candidates`, which are available, at least one, in the order of the config."""
        ...

    def released(self, replica: Candidate) -> None:
        """A request that was chosen for it has ended there, in whatever way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPolicySpec:
    """The answer to the hook `enginebay_routing_policy`."""

    name: str
    options_model: type[Any]
    """A strict pydantic model of the policy's `options:`."""
    create: Callable[[Any, Random], RoutingPolicy]
    """(validated options, the pool's source of chance) -> a policy for one pool."""


class RoutingHooks:
    @hookspec(firstresult=True)
    def enginebay_routing_policy(self) -> RoutingPolicySpec | None:  # pyright: ignore[reportReturnType]
        """Return the specification of the policy that this plugin offers."""
