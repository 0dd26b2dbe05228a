"""A verdict as a gate of CI: what fails it, and the exit code that says so."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from enginebay.errors import ConfigError
from enginebay.verdict.comparison.words import invalid_words
from enginebay.verdict.verdict import NO_VERDICT, LoadVerdict, Verdict

GateName = Literal["slower", "invalid", "outputs", "undecided"]
GATES: tuple[GateName, ...] = get_args(GateName)

PASSED, FAILED, NO_DECISION = 0, 1, 3
"""Exit codes; 2 is for a wrong command line or config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFailure:
    gate: GateName
    message: str


def parse_gates(text: str | None) -> frozenset[GateName]:
    """`slower,invalid`: names with commas between them. Raises ConfigError for a name that is none."""
    asked = [name.strip() for name in (text or "").split(",") if name.strip()]
    known: dict[str, GateName] = {name: name for name in GATES}
    if unknown := [name for name in asked if name not in known]:
        raise ConfigError(f"--fail-on has no {unknown[0]!r}", expected=", ".join(GATES))
    return frozenset(known[name] for name in asked)


def gate_failures(verdict: Verdict, gates: Collection[GateName]) -> list[GateFailure]:
    """In the order of GATES."""
    found = {
        "slower": _slower(verdict),
        "invalid": _invalid(verdict),
        "outputs": _outputs(verdict),
        "undecided": _undecided(verdict),
    }
    return [GateFailure(gate=gate, message=message) for gate in GATES if gate in gates for message in found[gate]]


def exit_code(verdict: Verdict, gates: Collection[GateName]) -> int:
    """FAILED before NO_DECISION: what was found counts even where something else could not be looked at."""
    if gate_failures(verdict, gates):
        return FAILED
    is_whole = all(load.status == "judged" and not load.invalid for load in verdict.loads)
    has_outputs = "outputs" not in gates or _are_outputs_compared(verdict)
    return PASSED if verdict.has_decided and is_whole and has_outputs else NO_DECISION


def _are_outputs_compared(verdict: Verdict) -> bool:
    """Of every pair, under one load at least: what was said under none may have been anything."""
    pairs = {(agreement.first, agreement.second) for agreement in verdict.outputs}
    compared = {(agreement.first, agreement.second) for agreement in verdict.outputs if not agreement.not_compared}
    return bool(compared) and compared == pairs


def _slower(verdict: Verdict) -> Iterator[str]:
    for metric in verdict.metrics:
        if metric.outcome == "slower" and metric.ratio is not None:
            yield f"{metric.load}: {metric.second} is slower than {metric.first}: {metric.metric} × {metric.ratio:.3g}"


def _invalid(verdict: Verdict) -> Iterator[str]:
    for invalid in dict.fromkeys(invalid for load in verdict.loads for invalid in load.invalid):
        yield f"INVALID {invalid_words(invalid)}"
    for load in verdict.loads:
        for reason in load.against:
            yield f"{load.load}: {load.second} against {load.first}: {reason.code}: {reason.detail}"


def _outputs(verdict: Verdict) -> Iterator[str]:
    for agreement in verdict.outputs:
        if agreement.is_beyond_bound:
            yield f"{agreement.second} says something else than {agreement.first}: {agreement.finding}"


def _undecided(verdict: Verdict) -> Iterator[str]:
    for load in verdict.loads:
        yield from _undecided_under(load)


def _undecided_under(load: LoadVerdict) -> Iterator[str]:
    if load.status != "judged":
        yield f"{load.load}: {load.second} against {load.first}: {NO_VERDICT[load.status]}"
        return
    for metric in load.metrics:
        if metric.outcome == "undecided":
            yield f"{metric.load}: {metric.second} against {metric.first}: {metric.metric}: {metric.why_undecided}"
