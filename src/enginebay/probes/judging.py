"""What came of a probe, by what it returned or raised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from enginebay.errors import UnsupportedFeature
from enginebay.probes.probe import Outcome, ProbeFailed, ProbeSkipped
from enginebay.types import Capabilities, Feature


async def judge(
    running: Awaitable[str | None],
    *,
    time_limit_s: float,
    feature: Feature | None = None,
    capabilities: Capabilities | None = None,
) -> tuple[Outcome, str]:
    """What a probe came to. Only a cancellation from outside is raised."""
    limit = asyncio.timeout(time_limit_s)
    try:
        async with limit:
            detail = await running
    except ProbeSkipped as reason:
        return Outcome.SKIPPED, str(reason)
    except ProbeFailed as problem:
        return Outcome.FAILED, str(problem)
    except UnsupportedFeature as refusal:
        return _judge_refusal(refusal, feature=feature, capabilities=capabilities)
    except Exception as error:  # noqa: BLE001 - whatever a backend raises is a finding
        if isinstance(error, TimeoutError) and limit.expired():
            return Outcome.FAILED, f"did not end within {time_limit_s:g} s"
        return Outcome.FAILED, f"{type(error).__name__}: {error}"
    if feature is not None and capabilities is not None and feature not in capabilities:
        return Outcome.FAILED, f"accepts {feature.value!r}, which it does not declare"
    return Outcome.PASSED, detail or ""


def _judge_refusal(
    refusal: UnsupportedFeature, *, feature: Feature | None, capabilities: Capabilities | None
) -> tuple[Outcome, str]:
    """A refusal is sound where it is declared: of the feature that is probed, or of one that the probe needs."""
    declared = frozenset[str](() if capabilities is None else (each.value for each in capabilities.features))
    if refusal.field in declared:
        return Outcome.FAILED, f"declares {refusal.field!r}, but refuses it: {refusal}"
    if feature is not None and refusal.field == feature.value:
        return Outcome.UNSUPPORTED, f"refused by name: {refusal.field}"
    if feature is not None and capabilities is not None and feature not in capabilities:
        if refusal.field in frozenset[str](Feature):
            return Outcome.UNSUPPORTED, f"refused by the name of what it rests on: {refusal.field}"
        return Outcome.FAILED, f"refuses {feature.value!r} under another name, {refusal.field!r}"
    return Outcome.SKIPPED, f"needs {refusal.field!r}, which the backend does not declare and refuses"
