"""Runs of one load against each other: byte for byte where both were sent one dialect, field by field where not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from enginebay.verdict.certificate.certificate import Level, Likeness, RunAudit

ABOUT_THE_ANSWER = frozenset(
    {"return_token_ids", "return_tokens", "stream_options", "details", "return_full_text", "timings_per_token"}
)
"""What an answer tells beside its text; nothing of the work that is asked for."""
NEUTRAL: Mapping[str, object] = {"n": 1, "add_special_tokens": True, "add_generation_prompt": True, "detokenize": True}
"""Values that a body without the field asks for too; so do all that are empty, zero or false."""


def likenesses(audits: Sequence[RunAudit]) -> Iterator[Likeness]:
    """Each valid run with the first that was planned the same."""
    first_of: dict[str, RunAudit] = {}
    for audit in audits:
        if not audit.valid:
            continue
        first = first_of.setdefault(audit.planned_sha256, audit)
        if first is not audit:
            yield likeness(first, audit)


def likeness(first: RunAudit, second: RunAudit) -> Likeness:
    problem = _problem(first, second)
    return Likeness(
        load=first.run.load,
        first=first.run,
        second=second.run,
        level="apart" if problem else _level(first, second),
        other_fields=tuple(_other_fields(first, second)),
        problem=problem,
    )


def _level(first: RunAudit, second: RunAudit) -> Level:
    if first.load_sha256 == second.load_sha256 and first.paths == second.paths:
        return "bytes"
    return "fields" if first.prompts_sha256 == second.prompts_sha256 else "counts"


def _problem(first: RunAudit, second: RunAudit) -> str:
    """Without faults, prompts and sampling are those of the plan, as far as each was audited."""
    if first.faults or second.faults:
        return "one was not sent as planned"
    if first.num_requests != second.num_requests:
        return f"{first.num_requests} and {second.num_requests} requests"
    if first.sampling_sha256 != second.sampling_sha256:
        return "they were planned with different sampling"
    has_other_form = first.prompts_sha256 != second.prompts_sha256
    if has_other_form and (
        first.prompt_tokens_sha256 is None or first.prompt_tokens_sha256 != second.prompt_tokens_sha256
    ):
        return "prompts differ, and no count of tokens shows that they are the same"
    if changed := [name for name in _other_fields(first, second) if _asks_for_other_work(name, first, second)]:
        return f"{', '.join(changed)}: sent to one, otherwise to the other"
    return ""


def _other_fields(first: RunAudit, second: RunAudit) -> list[str]:
    names = sorted(first.other_fields.keys() | second.other_fields.keys())
    return [name for name in names if first.other_fields.get(name) != second.other_fields.get(name)]


def _asks_for_other_work(name: str, first: RunAudit, second: RunAudit) -> bool:
    """Where both speak one dialect. Fields that only one of two dialects has are named, and no more can be said."""
    if name in ABOUT_THE_ANSWER:
        return False
    values = [audit.other_fields[name] for audit in (first, second) if name in audit.other_fields]
    if len(values) == 1:
        return first.paths == second.paths and bool(values[0]) and values[0] != NEUTRAL.get(name)
    return True
