"""From results to a verdict: the backends of one load test, or the same loads of two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from enginebay.errors import NotComparable
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.result import InvalidReason, Result
from enginebay.verdict.comparison.contest import Contest, Subject
from enginebay.verdict.comparison.family import LEVEL, judge_all
from enginebay.verdict.comparison.figures import figures
from enginebay.verdict.comparison.phrases import listed
from enginebay.verdict.comparison.why import reasons
from enginebay.verdict.comparison.words import headline, invalid_words, sentences
from enginebay.verdict.outputs.agreement import OutputAgreement
from enginebay.verdict.verdict import LoadVerdict, Status, Verdict


def judge(
    result: Result,
    *,
    first: str | None = None,
    margin: float | None = None,
    outputs: Sequence[OutputAgreement] = (),
    apart: Sequence[InvalidReason] = (),
) -> Verdict:
    """Each backend of one load test against `first`, or against the one that was asked for first.

    Starts of one number stood side by side in time and are compared pair by pair. margin: in place of the result's own.
    apart: what is known to speak against any verdict, such as a certificate that shows other loads.
    Raises NotComparable where backends were reached over different transports, or where there is only one.
    """
    subjects = [_subject(result, label) for label in _labels(result, first=first)]
    if len(subjects) < 2:
        raise NotComparable("a verdict needs two backends, and one was measured: name two with --backend")
    contests = [
        Contest(first=subjects[0], second=other, load=load, is_paired=True, apart=tuple(apart))
        for other in subjects[1:]
        for load in dict.fromkeys(run.load for run in result.runs)
    ]
    return _verdict([result], subjects, contests, margin=margin, outputs=outputs)


def judge_between(
    first: Result,
    second: Result,
    *,
    names: tuple[str, str] = ("first", "second"),
    margin: float | None = None,
    outputs: Sequence[OutputAgreement] = (),
) -> Verdict:
    """Each backend of `second` against the one of the same label in `first`; where each has one alone, against that.

    Nothing puts their starts side by side in time, so they are compared as two groups. names: of the results, where
    labels are the same on both sides. Raises NotComparable for other plans, other transports or nothing in common.
    """
    demand_one_plan(first, second)
    pairings = pairings_between(first, second, names=names)
    if not pairings:
        ours, theirs = (", ".join(_labels(result)) or "none" for result in (first, second))
        raise NotComparable(f"no backend in common: {ours} against {theirs}")
    pairs = [
        (
            _subject(first, pairing.labels[0], name=pairing.names[0]),
            _subject(second, pairing.labels[1], name=pairing.names[1]),
        )
        for pairing in pairings
    ]
    contests = [
        Contest(first=one, second=other, load=load, is_paired=False)
        for one, other in pairs
        for load in dict.fromkeys(run.load for run in (*one.runs, *other.runs))
    ]
    subjects = [subject for pair in pairs for subject in pair]
    return _verdict([first, second], subjects, contests, margin=margin, outputs=outputs)


def _verdict(
    results: Sequence[Result],
    subjects: Sequence[Subject],
    contests: Sequence[Contest],
    *,
    margin: float | None,
    outputs: Sequence[OutputAgreement],
) -> Verdict:
    for contest in contests:
        contest.demand_one_transport()
    margin = results[0].equivalence_margin if margin is None else margin
    compared = figures(has_levels=_has_levels(results), fewest_values=_fewest_values(contests))
    family = judge_all(contests, compared, margin=margin)
    loads = [
        LoadVerdict(
            first=contest.first.name,
            second=contest.second.name,
            load=contest.load,
            status=contest.status,
            metrics=tuple(metrics),
            invalid=contest.invalid,
            against=contest.against,
            reasons=reasons(contest) if contest.status in ("judged", "too few starts") else (),
        )
        for contest, metrics in zip(contests, family.by_contest, strict=True)
    ]
    status = _status(loads)
    return Verdict(
        plan_sha256=results[0].plan_sha256,
        subjects=tuple(subject.name for subject in subjects),
        status=status,
        paired=all(contest.is_paired for contest in contests),
        margin=margin,
        confidence=1 - LEVEL,
        num_hypotheses=family.num_hypotheses,
        loads=tuple(loads),
        headline=headline(loads, status),
        sentences=sentences(loads, margin=margin),
        caveats=tuple(_caveats(results, loads)),
        outputs=tuple(outputs),
    )


def _status(loads: Sequence[LoadVerdict]) -> Status:
    """`judged` as soon as one load was; else what stands in the way first of all."""
    found = {load.status for load in loads}
    for status in _IN_ORDER:
        if status in found:
            return status
    return "nothing to compare"


_IN_ORDER: tuple[Status, ...] = ("judged", "simulated", "invalid", "too few starts")


# ---------------------------------------------------------------- subjects


def _labels(result: Result, *, first: str | None = None) -> list[str]:
    """In the order in which they were asked for, `first` before all."""
    measured = [*(run.label for run in result.runs), *(failure.label for failure in result.failures)]
    labels = list(dict.fromkeys([*(subject.label for subject in result.subjects), *measured]))
    if first is None:
        return labels
    if first not in labels:
        raise NotComparable(f"no backend of the result is called {first!r}; there are {', '.join(labels)}")
    return [first, *(label for label in labels if label != first)]


def _subject(result: Result, label: str, *, name: str | None = None) -> Subject:
    return Subject(
        name=name or label,
        runs=[run for run in result.runs if run.label == label],
        failures=[failure for failure in result.failures if failure.label == label],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Of the first and the second of two results."""

    labels: tuple[str, str]
    names: tuple[str, str]
    """In the verdict: no two subjects of it have the same."""


def pairings_between(first: Result, second: Result, *, names: tuple[str, str]) -> list[Pairing]:
    """Equal labels, each with the name of its result; where each has one label alone, those two."""
    ours, theirs = _labels(first), _labels(second)
    if len(ours) == len(theirs) == 1 and ours != theirs:
        return [Pairing(labels=(ours[0], theirs[0]), names=(ours[0], theirs[0]))]
    one, other = names if names[0] != names[1] else ("first", "second")
    return [
        Pairing(labels=(label, label), names=(f"{label} ({one})", f"{label} ({other})"))
        for label in ours
        if label in theirs
    ]


# ---------------------------------------------------------------- what must be alike


def demand_one_plan(first: Result, second: Result) -> None:
    """Raise NotComparable for results of different plans."""
    if first.plan_sha256 != second.plan_sha256:
        raise NotComparable(
            f"the two results replayed different plans ({first.plan_sha256[:12]} and {second.plan_sha256[:12]}): "
            "measure both with the same config, seed and model"
        )


def _fewest_values(contests: Sequence[Contest]) -> int:
    """Of a latency, in the runs that count."""
    runs = [run for contest in contests for side in contest.starts for start in side for run in start]
    latencies = [latency for run in runs for latency in (run.metrics.ttft_scheduled_s, run.metrics.e2e_s)]
    return min((latency.num_values for latency in latencies if latency is not None), default=0)


def _has_levels(results: Sequence[Result]) -> bool:
    """Of two results with different service levels the goodput is not the same figure."""
    levels = results[0].slo
    return all(result.slo == levels for result in results) and any(
        value is not None for value in msgspec.structs.astuple(levels)
    )


def _caveats(results: Sequence[Result], loads: Sequence[LoadVerdict]) -> Iterator[str]:
    if len(results) > 1:
        yield from _other_machine(results[0].environment, results[1].environment)
        yield from _versions(results)
        yield from _left_out(results[0], results[1])
        if results[0].slo != results[1].slo:
            yield "The results have other service levels: good requests per second are not compared."
        yield (
            "The results were measured one after the other and not in turns: what changed on the machine in between "
            "counts as a difference of the engines."
        )
    if kept_up := dict.fromkeys(one.label for result in results for one in result.subjects if not one.is_restarted):
        yield (
            f"{listed(list(kept_up))} ran all the time and {'was' if len(kept_up) == 1 else 'were'} not started anew "
            "for each round: the intervals tell how rounds scatter, and a restart may change more than that."
        )
    yield from _other_models(results)
    if any(result.status == "partial" for result in results):
        yield "A load test ended early: not every start that was planned was measured."
    for load in loads:
        for reason in load.against:
            yield f"{load.load}: {load.second} is not set against {load.first}: {reason.code}: {reason.detail}"
    for invalid in dict.fromkeys(invalid for load in loads for invalid in load.invalid):
        yield f"INVALID {invalid_words(invalid)}"


def _left_out(first: Result, second: Result) -> Iterator[str]:
    """Where each side has one alone, these two are compared whatever they are called."""
    ours, theirs = _labels(first), _labels(second)
    alone = [label for label in (*ours, *theirs) if (label in ours) != (label in theirs)]
    if alone and not len(ours) == len(theirs) == 1:
        yield f"Only one of the results has {listed(alone)}: not compared."


def _other_models(results: Sequence[Result]) -> Iterator[str]:
    """Names may differ for one model, as servers call it as they like; weights that are known to be equal settle it."""
    subjects = [one for result in results for one in result.subjects]
    told = listed(list(dict.fromkeys(f"{one.label} {one.model or 'one that is not told'}" for one in subjects)))
    weights = {one.weights for one in subjects}
    if len(weights - {None}) > 1:
        yield f"The backends did not run the same weights: {told}."
    elif len({one.model for one in subjects}) > 1 and None in weights:
        yield f"The models have different names, and nothing shows that their weights are the same: {told}."


def _versions(results: Sequence[Result]) -> Iterator[str]:
    """What an upgrade is about, where the engines tell it."""
    before, after = (
        sorted({f"{run.label} {run.engine_version}" for run in result.runs if run.engine_version}) for result in results
    )
    if before != after:
        yield f"Versions: {listed(before) or 'not told'} before, {listed(after) or 'not told'} after."


def _other_machine(first: Environment, second: Environment) -> Iterator[str]:
    names = ("cpu", "num_cores", "memory_bytes", "gpus", "operating_system", "python")
    others = [name for name in names if getattr(first, name) != getattr(second, name)]
    if others:
        told = ", ".join(f"{name} {getattr(first, name)} and {getattr(second, name)}" for name in others)
        yield f"The results were measured on different machines: {told}."
