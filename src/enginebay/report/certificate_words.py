"""The identical-load certificate in the words of all reports."""

from __future__ import annotations

from collections import Counter

from enginebay.report.numbers import count
from enginebay.verdict.certificate.certificate import Certificate
from enginebay.verdict.comparison.phrases import listed

LEVELS: dict[str, str] = {
    "bytes": "byte for byte",
    "fields": "same texts and sampling fields, in two dialects",
    "counts": "same numbers of tokens and sampling fields",
    "apart": "NOT the same load",
}
MAX_FAULTS = 12


def certificate_headline(certificate: Certificate) -> str:
    """One sentence."""
    simulated = " At least one side is simulated." if certificate.simulated else ""
    if not any(run.valid for run in certificate.runs):
        return f"No valid run, so that nothing was shown about the load.{simulated}"
    if certificate.is_identical:
        return f"Every valid run was sent what the plan says, and each load was the same for all.{simulated}"
    return f"The load was NOT the same for all, or not as planned.{simulated}"


def certificate_lines(certificate: Certificate) -> list[str]:
    """What was looked at, and what was found otherwise than planned."""
    return [*_compared(certificate), *_not_carried(certificate), *_faults(certificate)]


def _compared(certificate: Certificate) -> list[str]:
    num_sent = sum(run.num_requests for run in certificate.runs)
    lines = [f"{count(num_sent)} requests of {count(len(certificate.runs))} runs, as the sockets were given them."]
    levels = Counter(likeness.level for likeness in certificate.likenesses)
    if levels:
        told = [f"{count(number)} {LEVELS[level]}" for level, number in levels.items()]
        lines.append(f"Runs against the first of their load: {listed(told)}.")
    fields = sorted({field for likeness in certificate.likenesses for field in likeness.other_fields})
    if fields:
        lines.append(f"Further fields that the dialects do not share: {', '.join(fields)}.")
    return lines


def _not_carried(certificate: Certificate) -> list[str]:
    by_label = {run.run.label: run.fields_not_carried for run in certificate.runs if run.fields_not_carried}
    return [f"{label} was not sent, and the plan leaves off: {', '.join(names)}." for label, names in by_label.items()]


def _faults(certificate: Certificate) -> list[str]:
    found = [f"{run.run.label}, {run.run.load}: {fault.detail}" for run, fault in certificate.faults]
    more = [f"and {len(found) - MAX_FAULTS} more"] if len(found) > MAX_FAULTS else []
    return [*found[:MAX_FAULTS], *more]
