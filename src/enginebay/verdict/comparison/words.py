"""A comparison in sentences that somebody understands who has never heard of a t-test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from enginebay.verdict.comparison.figures import TITLES
from enginebay.verdict.comparison.phrases import changed, listed, starts
from enginebay.verdict.verdict import NO_VERDICT, InvalidRun, LoadVerdict, MetricVerdict, Outcome, Status


def headline(loads: Sequence[LoadVerdict], status: Status) -> str:
    if status != "judged":
        against = dict.fromkeys(reason.detail for load in loads for reason in load.against if status == "invalid")
        why = "; ".join(against) or _WHY_NONE[status]
        return f"{NO_VERDICT[status][0].upper()}{NO_VERDICT[status][1:]}: {why}."
    subjects = dict.fromkeys((load.first, load.second) for load in loads)
    of_each = [_of_subjects([load for load in loads if (load.first, load.second) == pair]) for pair in subjects]
    return f"{'; '.join(of_each)}."


def sentences(loads: Sequence[LoadVerdict], *, margin: float) -> tuple[str, ...]:
    """Of each load what was decided and what was not, then why."""
    return tuple(sentence for load in loads for sentence in _of_load(load, margin=margin))


def invalid_words(invalid: InvalidRun) -> str:
    load = f", {invalid.load}" if invalid.load is not None else ""
    start = f", start {invalid.start_index + 1}" if invalid.start_index is not None else ""
    return f"{invalid.label}{load}{start}: " + "; ".join(
        f"{reason.code}: {reason.detail}" for reason in invalid.reasons
    )


_WHY_NONE: dict[Status, str] = {
    "simulated": "a simulator was measured, and how fast it answers says nothing about an engine",
    "invalid": "too few runs did what the plan says",
    "too few starts": "fewer than three starts of each side do not tell a difference from chance",
    "nothing to compare": "no load was measured on both sides",
}


def _of_subjects(loads: Sequence[LoadVerdict]) -> str:
    metrics = [metric for load in loads for metric in load.metrics]
    first, second = loads[0].first, loads[0].second
    if not any(load.status == "judged" for load in loads):
        return f"{second} against {first}: {NO_VERDICT[loads[0].status]}"
    counts: dict[Outcome, int] = dict.fromkeys(("faster", "slower", "equivalent", "undecided"), 0)
    for metric in metrics:
        counts[metric.outcome] += 1
    decided = len(metrics) - counts["undecided"]
    if not decided:
        return f"It is undecided whether {second} is faster than {first}"
    if counts["equivalent"] == len(metrics):
        return f"{second} is as fast as {first}"
    ways = [f"{outcome} in {counts[outcome]}" for outcome in ("faster", "slower", "equivalent") if counts[outcome]]
    undecided = f"; {counts['undecided']} undecided" if counts["undecided"] else ""
    return f"{second} against {first}: {listed(ways)} of {len(metrics)} figures{undecided}"


def _of_load(load: LoadVerdict, *, margin: float) -> Iterator[str]:
    where = f"With {load.load}"
    if load.status != "judged":
        yield f"{where}, {load.second} against {load.first}: {NO_VERDICT[load.status]}."
    for outcome in ("faster", "slower"):
        if found := _with(load, outcome):
            named = listed([changed(metric, TITLES[metric.metric]) for metric in found])
            yield f"{where} {load.second} is {outcome} than {load.first}: {named}."
    if found := _with(load, "equivalent"):
        named = listed([changed(metric, TITLES[metric.metric]) for metric in found])
        yield f"{where} the two are equivalent within {margin * 100:g} %: {named}."
    if load.status == "judged":
        yield from _undecided(where, _with(load, "undecided"))
    if load.outcomes & {"faster", "slower"} and load.reasons:
        yield f"{where}, why: {' '.join(reason.sentence for reason in load.reasons)}"


def _undecided(where: str, metrics: Sequence[MetricVerdict]) -> Iterator[str]:
    """Figures of one advice in one sentence."""
    for advice in dict.fromkeys(map(_advice, metrics)):
        named = listed([changed(metric, TITLES[metric.metric]) for metric in metrics if _advice(metric) == advice])
        yield f"{where} undecided: {named}; {advice}."


def _advice(metric: MetricVerdict) -> str:
    if metric.num_more_starts is not None:
        return f"about {starts(metric.num_more_starts)} would decide"
    return metric.why_undecided


def _with(load: LoadVerdict, outcome: Outcome) -> list[MetricVerdict]:
    return [metric for metric in load.metrics if metric.outcome == outcome]
