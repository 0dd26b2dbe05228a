"""Reasons against a comparison of runs that are valid by themselves."""

from __future__ import annotations

from collections.abc import Sequence

from enginebay.loadtest.result import InvalidReason, Run
from enginebay.loadtest.validity.reason import Reason

MAX_LENGTH_DIFFERENCE_RATIO = 0.05

SIMULATED = Reason(
    code="simulated",
    meaning="At least one side is a simulator: how fast it answers says nothing about an engine.",
    bound="none: the outcome is `no verdict (simulated)`, and no setting lifts that",
    remedy="Measure engines.",
    scope="comparison",
)
OUTPUT_LENGTHS_APART = Reason(
    code="output_lengths_apart",
    meaning="One side made longer outputs than the other, and so did more work for the same requests.",
    bound="output tokens for each finished request, over all valid runs of one load, are at most "
    f"{MAX_LENGTH_DIFFERENCE_RATIO:.0%} apart",
    remedy="Use the default workload, whose prompts make outputs as long as `max_tokens` lets them, or `ignore_eos` "
    "where both sides can; with natural stops, ask for more requests.",
    scope="comparison",
)


def comparison_reasons(first: Sequence[Run], second: Sequence[Run]) -> list[InvalidReason]:
    """first, second: the runs of each side under one load. Invalid runs speak for themselves and are left out."""
    if any(run.simulated for run in (*first, *second)):
        return [SIMULATED.found("at least one side is a simulator")]
    lengths = [_mean_output_length(runs) for runs in (first, second)]
    if None in lengths:
        return []
    one, other = (length or 0.0 for length in lengths)
    longer, shorter = max(one, other), min(one, other)
    if longer > (1 + MAX_LENGTH_DIFFERENCE_RATIO) * shorter:
        return [
            OUTPUT_LENGTHS_APART.found(
                f"outputs are {one:.1f} and {other:.1f} tokens long on average; "
                f"the bound is {MAX_LENGTH_DIFFERENCE_RATIO:.0%}"
            )
        ]
    return []


def _mean_output_length(runs: Sequence[Run]) -> float | None:
    """None where no request of a valid run finished."""
    valid = [run.metrics for run in runs if run.valid]
    num_finished = sum(metrics.num_requests - metrics.num_errors for metrics in valid)
    return sum(metrics.num_output_tokens for metrics in valid) / num_finished if num_finished else None
