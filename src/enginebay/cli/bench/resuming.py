"""`bench --resume`: which starts of an earlier load test count, and why none may where something is different now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from enginebay.errors import NotComparable
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.kept import Kept, read_kept
from enginebay.loadtest.measurement import BenchSettings, Subject
from enginebay.loadtest.plan import Plan
from enginebay.loadtest.result import Result, load_result


def kept_starts(
    folder: Path, plan: Plan, subjects: Sequence[Subject], *, settings: BenchSettings, environment: Environment
) -> Kept:
    """More starts than before may be asked for; everything else must be as it was.

    Raises NotComparable with all that differs, LoadTestError where there is nothing to go on with.
    """
    kept = read_kept(folder, plan)
    differences = [
        *_other_settings(load_result(folder), settings),
        *_other_machine(load_result(folder).environment, environment),
        *(difference for subject in subjects for difference in _other_subject(kept, subject)),
    ]
    if differences:
        raise NotComparable(
            f"{folder} was measured otherwise, so that --resume cannot go on: {'; '.join(differences)}. "
            "Measure into another folder with --out"
        )
    labels = {subject.label for subject in subjects}
    if strangers := {run.label for run in kept.runs} - labels:
        raise NotComparable(
            f"{folder} also has {', '.join(sorted(strangers))}, which is not among what is measured now: name the same "
            "backends, or measure into another folder with --out"
        )
    return kept


def _other_settings(before: Result, now: BenchSettings) -> Iterator[str]:
    if before.slo != now.slo:
        yield f"service levels were {before.slo}, now {now.slo}"


def _other_machine(before: Environment, now: Environment) -> Iterator[str]:
    for name in ("cpu", "num_cores", "operating_system", "python", "gpus"):
        if getattr(before, name) != getattr(now, name):
            yield f"{name} was {getattr(before, name)}, now {getattr(now, name)}"
    for package in sorted(before.packages.keys() | now.packages.keys()):
        was, is_now = before.packages.get(package, "absent"), now.packages.get(package, "absent")
        if was != is_now:
            yield f"{package} was {was}, now {is_now}"


def _other_subject(kept: Kept, subject: Subject) -> Iterator[str]:
    run = next((run for run in kept.runs if run.label == subject.label), None)
    if run is None:
        return
    if (run.backend, run.transport) != (subject.kind, subject.transport):
        yield f"{run.label} was {run.backend} over {run.transport}, now {subject.kind} over {subject.transport}"
    settings = subject.configured_settings
    for name in sorted(run.configured_settings.keys() | settings.keys()):
        was, is_now = run.configured_settings.get(name, "not set"), settings.get(name, "not set")
        if was != is_now:
            yield f"{run.label}: {name} was {was}, now {is_now}"
