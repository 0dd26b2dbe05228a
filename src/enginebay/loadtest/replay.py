"""A result measured again: the same plan, weights, images and settings, or a refusal that names what is different."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from enginebay.errors import LoadTestError, NotComparable
from enginebay.loadtest.measurement import Subject
from enginebay.loadtest.plan import Plan, load_plan
from enginebay.loadtest.result import MeasuredSubject, Origin, Result, load_result


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    result: Result
    plan: Plan
    config: Path

    @property
    def labels(self) -> list[str]:
        """Backends, in the order in which they were asked for."""
        return [subject.label for subject in self.result.subjects]


def origin_of(config: Path) -> Origin:
    return Origin(config=str(config), config_sha256=hashlib.sha256(config.read_bytes()).hexdigest())


def read_replay(result: Path, *, config: Path | None = None) -> Replay:
    """`result`: result.json or its folder; plan.json must lie beside it. config: where the file has been moved to.

    Raises LoadTestError where something is missing, NotComparable where plan or config have changed since.
    """
    measured = load_result(result)
    folder = result if result.is_dir() else result.parent
    plan = load_plan(folder / "plan.json")
    if plan.sha256 != measured.plan_sha256:
        raise NotComparable(f"{folder / 'plan.json'} is not the plan that {result} was measured with")
    origin = measured.origin
    if origin is None:
        raise LoadTestError(f"{result} was measured without a config, so that nothing tells how to start its backends")
    return Replay(result=measured, plan=plan, config=_same_config(origin, config or Path(origin.config)))


def _same_config(origin: Origin, path: Path) -> Path:
    if not path.is_file():
        raise LoadTestError(f"the config {path} is not there: give the place that it was moved to")
    if origin_of(path).config_sha256 != origin.config_sha256:
        raise NotComparable(
            f"the config {path} has changed since the result was measured: take the old one, or measure with "
            "`enginebay bench` and compare the two results"
        )
    return path


def demand_same_subjects(replay: Replay, subjects: Sequence[Subject]) -> None:
    """Raise NotComparable with all that is different now: weights, images, kinds, settings."""
    if differences := subject_differences(replay.result, subjects):
        raise NotComparable(f"the result cannot be measured again as it was: {'; '.join(differences)}")


def subject_differences(result: Result, subjects: Sequence[Subject]) -> list[str]:
    """What is different of the backends of a result now, by name."""
    settings = {run.label: run.configured_settings for run in reversed(result.runs)}
    return differences_of(result.subjects, settings, subjects)


def differences_of(
    measured: Sequence[MeasuredSubject], settings: Mapping[str, Mapping[str, object]], subjects: Sequence[Subject]
) -> list[str]:
    """settings: as they were configured then, by label.

    Weights that nobody knew then are not held against those of now: a model may have been pulled by the first start.
    """
    now = {subject.label: subject for subject in subjects}
    changed = [difference for before in measured for difference in _differences(before, now.get(before.label))]
    known = [subject for subject in subjects if subject.label in settings]
    return changed + [each for subject in known for each in _other_settings(settings[subject.label], subject)]


def _differences(before: MeasuredSubject, now: Subject | None) -> Iterator[str]:
    if now is None:
        yield f"{before.label} is not among the backends"
        return
    pairs = {
        "kind": (before.backend, now.kind),
        "image": (before.image, now.image),
        "model": (before.model, now.model),
    }
    if before.url is not None:
        pairs["url"] = (before.url, now.url)
    if before.weights is not None:
        pairs["weights"] = (_short(before.weights), _short(now.weights))
    for name, (was, is_now) in pairs.items():
        if was != is_now:
            yield f"{name} of {before.label} was {was}, now {is_now}"


def _other_settings(before: Mapping[str, object], subject: Subject) -> Iterator[str]:
    now = _as_saved(dict(subject.configured_settings))
    for name in sorted(before.keys() | now.keys()):
        was, is_now = before.get(name, "not set"), now.get(name, "not set")
        if was != is_now:
            yield f"{name} of {subject.label} was {was}, now {is_now}"


def _as_saved(settings: dict[str, object]) -> dict[str, object]:
    """A file knows lists and no tuples."""
    return msgspec.json.decode(msgspec.json.encode(settings, enc_hook=str))


def _short(weights: str | None) -> str:
    return "unknown" if weights is None else weights[:12]
