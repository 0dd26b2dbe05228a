"""Runs probes, each within its own time, and says what came of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from enginebay.backend import Backend
from enginebay.clock import Clock, MonotonicClock
from enginebay.probes.features import demand_refused
from enginebay.probes.judging import judge
from enginebay.probes.probe import Probe, ProbeResult
from enginebay.probes.suite import PROBES


async def run_probes(
    backend: Backend,
    *,
    probes: Sequence[Probe] = PROBES,
    time_limit_factor: float = 1.0,
    clock: Clock | None = None,
    on_result: Callable[[ProbeResult], None] = lambda result: None,
) -> list[ProbeResult]:
    """backend: started, as `get_backend` builds it; it is not closed. The probes run one after the other."""
    results: list[ProbeResult] = []
    for probe in probes:
        results.append(await run_probe(probe, backend, time_limit_factor=time_limit_factor, clock=clock))
        on_result(results[-1])
    return results


async def run_probe(
    probe: Probe, backend: Backend, *, time_limit_factor: float = 1.0, clock: Clock | None = None
) -> ProbeResult:
    clock = clock or MonotonicClock()
    begun_at = clock.now()
    feature, declared = probe.feature, backend.info.capabilities
    running = probe.run(backend) if feature is None or feature in declared else demand_refused(backend, feature)
    outcome, detail = await judge(
        running, time_limit_s=probe.time_limit_s * time_limit_factor, feature=feature, capabilities=declared
    )
    return ProbeResult(
        name=probe.name,
        outcome=outcome,
        detail=detail,
        feature=probe.feature,
        duration_s=clock.now() - begun_at,
    )
