"""Whether one and the same engine answered from the beginning of a run to its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from enginebay.loadtest.timeseries import Sample
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.reason import Finding, Reason

COUNTERS = (
    "num_prompt_tokens",
    "num_output_tokens",
    "num_preemptions",
    "num_prefix_cache_queries",
    "num_prefix_cache_hits",
    "num_steps",
)
"""Fields of a sample that only ever grow while an engine lives."""
MAX_START_SHIFT_S = 1.0
"""Engines round the instant of their start, and some compute it anew from the time they are up."""

ENGINE_RESTARTED = Reason(
    code="engine_restarted",
    meaning="The engine was started anew during the run, or several engines answer behind one address.",
    bound="no counter of the engine ever goes down, and its process started at one instant "
    f"(give or take {MAX_START_SHIFT_S:g} s)",
    remedy="Read the engine's log for why it ended; measure one replica, not a balancer in front of several.",
)


def engine_went_on(evidence: Evidence) -> Iterator[Finding]:
    told = [sample for sample in evidence.samples if sample.error is None]
    if not any(_tells(sample) for sample in told):
        yield ENGINE_RESTARTED.not_looked("the engine tells neither counters nor when it was started")
        return
    changes = [*_falls(told), *_new_starts(told)]
    if changes:
        yield ENGINE_RESTARTED.found("; ".join(changes))


def _tells(sample: Sample) -> bool:
    return any(getattr(sample, name) is not None for name in (*COUNTERS, "engine_started_at"))


def _falls(samples: Sequence[Sample]) -> Iterator[str]:
    """The first fall of each counter."""
    for name in COUNTERS:
        readings = [(sample.at, value) for sample in samples if (value := getattr(sample, name)) is not None]
        for (_, before), (at, after) in pairwise(readings):
            if after < before:
                yield f"{name} fell from {before:.0f} to {after:.0f} at {at:.1f} s"
                break


def _new_starts(samples: Sequence[Sample]) -> Iterator[str]:
    starts = [sample.engine_started_at for sample in samples if sample.engine_started_at is not None]
    if starts and max(starts) - min(starts) > MAX_START_SHIFT_S:
        yield f"its process was started again, {max(starts) - min(starts):.1f} s after the one before"
