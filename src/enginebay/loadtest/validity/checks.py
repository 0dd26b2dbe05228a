"""All checks of a run: the door."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from enginebay.loadtest.result import InvalidReason
from enginebay.loadtest.validity.client import client_below_ceiling, client_has_time, client_in_time
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.failures import failures
from enginebay.loadtest.validity.lengths import lengths_as_planned
from enginebay.loadtest.validity.prefix_cache import prompts_unknown
from enginebay.loadtest.validity.rate import rate_reached
from enginebay.loadtest.validity.reason import Finding
from enginebay.loadtest.validity.restart import engine_went_on
from enginebay.loadtest.validity.sample_size import enough_requests
from enginebay.loadtest.validity.settings import settings_as_asked
from enginebay.loadtest.validity.traffic import alone
from enginebay.loadtest.validity.unchecked import Unchecked
from enginebay.loadtest.validity.usage import usage_agrees, usage_told
from enginebay.loadtest.validity.warm_up import warmed_up

Check = Callable[[Evidence], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    failures,
    usage_told,
    lengths_as_planned,
    settings_as_asked,
    client_in_time,
    client_has_time,
    client_below_ceiling,
    rate_reached,
    prompts_unknown,
    usage_agrees,
    warmed_up,
    enough_requests,
    engine_went_on,
    alone,
)


@dataclass(frozen=True, slots=True)
class Validity:
    """A run is valid when there are no reasons against it."""

    reasons: tuple[InvalidReason, ...]
    unchecked: tuple[Unchecked, ...]


def validity(evidence: Evidence) -> Validity:
    findings = [finding for check in CHECKS for finding in check(evidence)]
    return Validity(
        reasons=tuple(finding for finding in findings if isinstance(finding, InvalidReason)),
        unchecked=tuple(finding for finding in findings if isinstance(finding, Unchecked)),
    )


def invalid_reasons(evidence: Evidence) -> list[InvalidReason]:
    return list(validity(evidence).reasons)
