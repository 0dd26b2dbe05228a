"""Certificates of whole folders of results: made, checked again, and set against each other."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.plan import Plan, PlannedLoad, load_plan
from enginebay.loadtest.records import Record, RunKey, read_records
from enginebay.loadtest.result import Run, load_result, save_result
from enginebay.loadtest.sent.sent import FILE_NAME as SENT_FILE_NAME
from enginebay.loadtest.sent.sent import Sent, read_sent
from enginebay.verdict.certificate.audit import audit_run
from enginebay.verdict.certificate.certificate import (
    Certificate,
    Likeness,
    RunAudit,
    save_certificate,
)
from enginebay.verdict.certificate.likeness import likenesses

FILES = ("plan.json", "records.jsonl", SENT_FILE_NAME)
"""What a certificate is made of."""


def certify(folder: Path) -> Certificate:
    """Audit what was measured into `folder`: writes certificate.json, and its hash into result.json.

    Raises LoadTestError for files that cannot be read.
    """
    certificate = make_certificate(folder)
    save_certificate(certificate, folder)
    result = msgspec.structs.replace(load_result(folder), certificate_sha256=certificate.sha256)
    save_result(result, folder / "result.json")
    return certificate


def make_certificate(folder: Path) -> Certificate:
    """Writes nothing."""
    result, plan = load_result(folder), load_plan(folder / "plan.json")
    if plan.sha256 != result.plan_sha256:
        raise LoadTestError(f"{folder}: plan.json is not the plan of result.json, whose hash is {result.plan_sha256}")
    records: dict[RunKey, list[Record]] = defaultdict(list)
    sent: dict[RunKey, list[Sent]] = defaultdict(list)
    for line in read_records(folder / "records.jsonl"):
        records[line.run].append(line.record)
    for line in read_sent(folder / SENT_FILE_NAME):
        sent[line.run].append(line.sent)
    audits = tuple(audit_run(_planned(plan, run), run, records[run.key], sent[run.key]) for run in result.runs)
    found = tuple(likenesses(audits))
    return Certificate(
        plan_sha256=plan.sha256,
        files={name: _sha256(folder / name) for name in FILES},
        is_identical=is_identical(audits, found),
        simulated=any(audit.simulated for audit in audits),
        runs=audits,
        likenesses=found,
    )


def _planned(plan: Plan, run: Run) -> PlannedLoad:
    return next(planned for planned in plan.loads_of_start(run.start_index) if planned.load == run.load)


def is_identical(audits: Sequence[RunAudit], found: Sequence[Likeness]) -> bool:
    """Runs that are invalid anyway are audited too, and spoil nothing; without any valid run nothing was shown."""
    valid = [audit for audit in audits if audit.valid]
    return bool(valid) and not any(audit.faults for audit in valid) and all(one.level != "apart" for one in found)


def verify(certificate: Certificate, folder: Path) -> list[str]:
    """What does not fit; empty where the files of `folder` give this very certificate again."""
    problems = [
        f"{name} was changed since it was certified"
        for name, sha256 in certificate.files.items()
        if not (folder / name).exists() or _sha256(folder / name) != sha256
    ]
    if problems:
        return problems
    again = make_certificate(folder)
    if again.sha256 != certificate.sha256:
        return [f"the files give the certificate {again.sha256[:12]}, and this is {certificate.sha256[:12]}"]
    return []


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
