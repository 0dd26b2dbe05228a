"""`bench --resume`: which starts of an earlier load test count, and why none may where something is different now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from enginebay.errors import NotComparable
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.kept import Kept, read_kept
from enginebay.loadtest.measurement import BenchSettings, Subject
from enginebay.loadtest.plan import Plan
from enginebay.loadtest.replay import subject_differences
from enginebay.loadtest.result import Conduct, MeasuredSubject, Result, load_result


def kept_starts(
    folder: Path, plan: Plan, subjects: Sequence[Subject], *, settings: BenchSettings, environment: Environment
) -> Kept:
    """More starts than before may be asked for; everything else must be as it was.

    Raises NotComparable with all that differs, LoadTestError where there is nothing to go on with.
    """
    kept, before = read_kept(folder, plan), load_result(folder)
    differences = [
        *_other_settings(before, settings),
        *_fewer_starts(kept, settings),
        *other_machine(before.environment, environment),
        *subject_differences(before, subjects),
        *(difference for subject in subjects for difference in _other_transport(kept, subject)),
        *other_modes(before.subjects, subjects),
        *newcomers(before.subjects, subjects),
    ]
    if differences:
        raise NotComparable(
            f"{folder} was measured otherwise, so that --resume cannot go on: {'; '.join(differences)}. "
            "Measure into another folder with --out"
        )
    return kept


def _other_settings(before: Result, now: BenchSettings) -> Iterator[str]:
    if before.slo != now.slo:
        yield f"service levels were {before.slo}, now {now.slo}"
    yield from conduct_differences(before.conduct, now.conduct)


def _fewer_starts(kept: Kept, now: BenchSettings) -> Iterator[str]:
    num_starts = max((start_index + 1 for start_index, _ in kept.starts), default=0)
    if now.num_starts < num_starts:
        yield f"{num_starts} starts were measured, and {now.num_starts} are asked for now"


def conduct_differences(before: Conduct | None, now: Conduct) -> Iterator[str]:
    """By the names that `bench:` has for them."""
    if before is None:
        yield "nothing tells its time-out of requests, percentiles and client processes: it is older than this --resume"
        return
    for name in now.__struct_fields__:
        was, is_now = getattr(before, name), getattr(now, name)
        if was != is_now:
            yield f"{name} was {was}, now {is_now}"


def other_machine(before: Environment, now: Environment) -> Iterator[str]:
    for name in ("cpu", "num_cores", "operating_system", "python", "gpus"):
        if getattr(before, name) != getattr(now, name):
            yield f"{name} was {getattr(before, name)}, now {getattr(now, name)}"
    for package in sorted(before.packages.keys() | now.packages.keys()):
        was, is_now = before.packages.get(package, "absent"), now.packages.get(package, "absent")
        if was != is_now:
            yield f"{package} was {was}, now {is_now}"


def _other_transport(kept: Kept, subject: Subject) -> Iterator[str]:
    run = next((run for run in kept.runs if run.label == subject.label), None)
    if run is not None and run.transport != subject.transport:
        yield f"{run.label} was reached over {run.transport}, now over {subject.transport}"


def other_modes(before: Sequence[MeasuredSubject], subjects: Sequence[Subject]) -> Iterator[str]:
    was_restarted = {measured.label: measured.is_restarted for measured in before}
    words = {True: "started by us", False: "a server of others"}
    for subject in subjects:
        was = was_restarted.get(subject.label, subject.is_restarted)
        if was != subject.is_restarted:
            yield f"{subject.label} was {words[was]}, now {words[subject.is_restarted]}"


def newcomers(before: Sequence[MeasuredSubject], subjects: Sequence[Subject]) -> Iterator[str]:
    """Starts are compared pair by pair, since they stand side by side in time: one that comes later has no pair."""
    known = {measured.label for measured in before}
    for subject in subjects:
        if subject.label not in known:
            yield f"{subject.label} was not measured in turns with the others"
