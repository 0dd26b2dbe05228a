"""A third party's policy, held to what policies promise: a mistake of its own costs a call, never a slot."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from enginebay.errors import PluginError
from enginebay.gateway.call import Call
from enginebay.gateway.routing.policy import Candidate, CandidateT, RoutingPolicy
from enginebay.types import GenerationRequest

_log = logging.getLogger(__name__)


class CheckedPolicy(RoutingPolicy):
    def __init__(self, inner: RoutingPolicy, name: str) -> None:
        self._inner, self._name = inner, name

    def choose(self, call: Call, request: GenerationRequest, candidates: Sequence[CandidateT]) -> CandidateT:
        """Raises PluginError where it fails, or gives something else than one of the candidates."""
        try:
            chosen: object = self._inner.choose(call, request, candidates)
        except Exception as error:
            raise PluginError(f"routing policy {self._name!r} failed: {error!r}; mend it or use another") from error
        for candidate in candidates:
            if candidate is chosen:
                return candidate
        names = ", ".join(candidate.name for candidate in candidates)
        raise PluginError(f"routing policy {self._name!r} chose {chosen!r}, which is none of {names}; mend it")

    def released(self, replica: Candidate) -> None:
        """Comes after an answer: there is nobody left to refuse."""
        try:
            self._inner.released(replica)
        except Exception as error:  # noqa: BLE001 - told where a third party's mistakes are looked for
            _log.error("routing policy %r failed when %s was released", self._name, replica.name, exc_info=error)
