"""What a batching policy wastes: differences of the engine's own counters over a run."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from enginebay import quantities
from enginebay.types import EngineStats


class PolicyMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """None where the engine has no such counter, or where nothing happened that could be divided by."""

    padding_ratio: float | None = None
    """Token positions computed only as padding / all token positions computed."""
    idle_slot_ratio: float | None = None
    """Slots that did no useful work / slots, both summed over steps."""
    batch_wait_s: float | None = None
    """Mean over admitted requests of the wait between arrival in the engine and admission to the batch."""
    outside_model_ratio: float | None = None
    """Share of the engine's busy time that was not spent in the model."""
    engine_idle_ratio: float | None = None
    """Share of the run in which the engine had nothing to do."""
    mean_batch_size: float | None = None
    """Slots that did useful work in a step, on average."""
    num_steps: float | None = None
    num_discarded_tokens: float | None = None


def policy_metrics(before: EngineStats, after: EngineStats, *, elapsed_s: float) -> PolicyMetrics:
    """`elapsed_s`: between the instants at which the two were read."""
    difference = _Differences(before.extra, after.extra)
    slot_steps = difference.of(quantities.ENGINE_SLOT_STEPS)
    idle_slot_steps = difference.of(quantities.ENGINE_IDLE_SLOT_STEPS)
    useful_slot_steps = None if slot_steps is None or idle_slot_steps is None else slot_steps - idle_slot_steps
    steps = difference.of(quantities.ENGINE_STEPS)
    busy_s = difference.of(quantities.ENGINE_BUSY_SECONDS)
    computed_tokens = difference.of(quantities.ENGINE_COMPUTED_TOKENS)
    return PolicyMetrics(
        padding_ratio=_ratio(difference.of(quantities.ENGINE_PADDING_TOKENS), computed_tokens),
        idle_slot_ratio=_ratio(idle_slot_steps, slot_steps),
        batch_wait_s=_ratio(
            difference.of(quantities.ENGINE_BATCH_WAIT_SECONDS), difference.of(quantities.ENGINE_ADMITTED)
        ),
        outside_model_ratio=_rest(_ratio(difference.of(quantities.ENGINE_MODEL_SECONDS), busy_s)),
        engine_idle_ratio=_rest(_ratio(busy_s, elapsed_s)),
        mean_batch_size=_ratio(useful_slot_steps, steps),
        num_steps=steps,
        num_discarded_tokens=difference.of(quantities.ENGINE_DISCARDED_TOKENS),
    )


class _Differences:
    def __init__(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        self._before, self._after = before, after

    def of(self, quantity: quantities.Quantity) -> float | None:
        """None where a reading is missing, or went down: then the engine was restarted in between."""
        before, after = self._before.get(quantity.prometheus_name), self._after.get(quantity.prometheus_name)
        if before is None or after is None or after < before:
            return None
        return after - before


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _rest(ratio: float | None) -> float | None:
    # Two clocks read at slightly different instants may put the part a hair above the whole.
    return None if ratio is None else min(1.0, max(0.0, 1.0 - ratio))
