"""Every reason there is, in the order of docs/validity.md, which is made from here."""

from __future__ import annotations

from enginebay.loadtest.validity.client import BEYOND_CEILING, CLIENT_LATE, CLIENT_SATURATED, CLIENT_STALLED
from enginebay.loadtest.validity.comparison import OUTPUT_LENGTHS_APART, SIMULATED
from enginebay.loadtest.validity.failures import ERRORS, PARTIAL, RECORDS_LOST
from enginebay.loadtest.validity.lengths import OUTPUT_LENGTHS, PROMPT_LENGTHS
from enginebay.loadtest.validity.prefix_cache import PREFIX_CACHE
from enginebay.loadtest.validity.rate import RATE_NOT_REACHED
from enginebay.loadtest.validity.reason import Reason, Scope
from enginebay.loadtest.validity.restart import ENGINE_RESTARTED
from enginebay.loadtest.validity.sample_size import TOO_FEW_REQUESTS
from enginebay.loadtest.validity.settings import SETTINGS_DIFFER
from enginebay.loadtest.validity.traffic import OTHER_TRAFFIC
from enginebay.loadtest.validity.usage import USAGE_DISAGREES, USAGE_MISSING
from enginebay.loadtest.validity.warm_up import WARM_UP_TOO_SHORT

REASONS: tuple[Reason, ...] = (
    PARTIAL,
    RECORDS_LOST,
    ERRORS,
    CLIENT_LATE,
    CLIENT_STALLED,
    CLIENT_SATURATED,
    BEYOND_CEILING,
    RATE_NOT_REACHED,
    PREFIX_CACHE,
    WARM_UP_TOO_SHORT,
    PROMPT_LENGTHS,
    OUTPUT_LENGTHS,
    USAGE_MISSING,
    USAGE_DISAGREES,
    TOO_FEW_REQUESTS,
    SETTINGS_DIFFER,
    ENGINE_RESTARTED,
    OTHER_TRAFFIC,
    OUTPUT_LENGTHS_APART,
    SIMULATED,
)


def markdown_table(scope: Scope) -> str:
    rows = [
        f"| `{reason.code}` | {reason.meaning} | {reason.bound} | {reason.remedy} |"
        for reason in REASONS
        if reason.scope == scope
    ]
    return "\n".join(["| code | what it means | bound | what to do |", "|---|---|---|---|", *rows])
