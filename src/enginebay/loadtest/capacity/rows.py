"""The findings as rows of text, for any table: a terminal, Markdown, HTML."""

from __future__ import annotations

from collections.abc import Iterator

from enginebay.loadtest.capacity.ratio import CapacityRatio, capacity_ratios
from enginebay.loadtest.capacity.result import BackendCapacity, CapacityResult, Interval, Probe

CAPACITY_HEADER = ("backend", "capacity", "interval", "probes", "good tokens/s", "cost", "energy")
PROBE_HEADER = ("probe", "requests/s", "requests", "missed", "borne", "note")
KILOWATT_HOUR_J = 3.6e6


def capacity_rows(result: CapacityResult) -> list[tuple[str, ...]]:
    """One for each start of each backend, under CAPACITY_HEADER. Cost and energy are for a million good tokens."""
    has_starts = any(capacity.start_index for capacity in result.capacities)
    return [_row(capacity, has_starts=has_starts) for capacity in result.capacities]


def probe_rows(capacity: BackendCapacity) -> list[tuple[str, ...]]:
    """One for each probe, under PROBE_HEADER, in the order of time."""
    return [
        (
            str(probe.number + 1),
            f"{probe.offered_rps:.4g}",
            str(probe.num_requests),
            _missed(probe),
            "yes" if probe.is_borne else "no",
            _note(probe),
        )
        for probe in capacity.probes
    ]


def capacity_sentences(result: CapacityResult) -> list[str]:
    """In plain words, most important first."""
    ratios = capacity_ratios(result) if len({each.label for each in result.capacities}) > 1 else ()
    return [
        *map(_ratio_sentence, ratios),
        *(_capacity_sentence(capacity, result) for capacity in result.capacities),
        *(sentence for capacity in result.capacities for sentence in _history(capacity)),
        *dict.fromkeys(sentence for capacity in result.capacities for sentence in _untold(capacity)),
    ]


def _row(capacity: BackendCapacity, *, has_starts: bool) -> tuple[str, ...]:
    cost = capacity.cost
    name = f"{capacity.label}, start {capacity.start_index + 1}" if has_starts else capacity.label
    return (
        f"{name} (simulated)" if capacity.simulated else name,
        _rate(capacity),
        "" if capacity.interval_rps is None else _interval(capacity.interval_rps),
        str(len(capacity.probes)),
        "" if cost.good_tokens_per_s is None else f"{cost.good_tokens_per_s:.4g}",
        "" if cost.cost_per_million_good_tokens is None else f"{cost.cost_per_million_good_tokens:.3g}",
        ", ".join(_energy(capacity)),
    )


def _rate(capacity: BackendCapacity) -> str:
    if capacity.rate_rps is None:
        return "not found"
    prefix = "" if capacity.outcome == "found" else f"{capacity.outcome} "
    return f"{prefix}{capacity.rate_rps:.3g} requests/s"


def _interval(interval: Interval) -> str:
    return f"{interval.low:.3g} to {interval.high:.3g} ({interval.confidence:.0%})"


def _energy(capacity: BackendCapacity) -> Iterator[str]:
    cost = capacity.cost
    for name, joules in (
        ("GPU", cost.gpu_joules_per_million_good_tokens),
        ("CPU", cost.cpu_joules_per_million_good_tokens),
    ):
        if joules is not None:
            yield f"{name} {joules / KILOWATT_HOUR_J:.3g} kWh"


def _missed(probe: Probe) -> str:
    return ", ".join(
        f"{name.removesuffix('_s')} {misses.ratio:.1%} (allowed {misses.allowed_ratio:.1%})"
        for name, misses in probe.misses.items()
    )


def _note(probe: Probe) -> str:
    if not probe.is_counted:
        return "INVALID, does not count: " + ", ".join(reason.code for reason in probe.invalid_reasons)
    if probe.is_saturated:
        return f"given up: {probe.served_rps:.3g} requests/s were finished"
    return ""


def _capacity_sentence(capacity: BackendCapacity, result: CapacityResult) -> str:
    simulated = " (simulated)" if capacity.simulated else ""
    name = f"{capacity.label}{simulated}"
    if capacity.rate_rps is None or capacity.why:
        found = "" if capacity.rate_rps is None else f"; {capacity.outcome} {capacity.rate_rps:.3g} requests/s"
        return f"The capacity of {name} was not found: {capacity.why or 'no probe counts'}{found}."
    if capacity.outcome == "found" and capacity.interval_rps is not None:
        return (
            f"{name} bears {capacity.rate_rps:.3g} requests/s ({_interval(capacity.interval_rps)}) with "
            f"{result.levels}."
        )
    tried = "every rate that was tried" if capacity.outcome == "at least" else "no rate that was tried"
    return f"{name} bore {tried}: its capacity is {capacity.outcome} {capacity.rate_rps:.3g} requests/s."


def _ratio_sentence(ratio: CapacityRatio) -> str:
    if ratio.ratio is None or ratio.interval is None:
        return f"The capacities of {ratio.second} and {ratio.first} are not compared: {ratio.why}."
    told = f"{ratio.second} bears {ratio.ratio:.3g} times the rate of {ratio.first} ({_interval(ratio.interval)})"
    return f"{told}: {ratio.outcome}, {ratio.why}." if ratio.why else f"{told}: {ratio.outcome}."


def _history(capacity: BackendCapacity) -> Iterator[str]:
    name = f"{capacity.label}, start {capacity.start_index + 1}"
    if capacity.status == "partial":
        yield f"The search on {name} was cut short after {len(capacity.probes)} probes; --resume goes on with it."
    if capacity.num_engine_starts > 1:
        yield (
            f"The probes of {name} were made on {capacity.num_engine_starts} starts of the engine, as the search was "
            "cut short: what differs from start to start may be in them."
        )


def _untold(capacity: BackendCapacity) -> Iterator[str]:
    names = {
        "cost_per_million_good_tokens": "cost",
        "gpu_joules_per_million_good_tokens": "energy of the GPU",
        "cpu_joules_per_million_good_tokens": "energy of the CPU",
    }
    for name, what in names.items():
        if why := capacity.cost.why_not.get(name):
            yield f"No {what}: {why}."
