"""Certificates of whole folders of results: made, checked again, and set against each other."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from enginebay.errors import LoadTestError, NotComparable
from enginebay.loadtest.plan import Plan, PlannedLoad, load_plan
from enginebay.loadtest.records import Record, RunKey, read_records
from enginebay.loadtest.result import Run, load_result, save_result
from enginebay.loadtest.sent.sent import FILE_NAME as SENT_FILE_NAME
from enginebay.loadtest.sent.sent import Sent, read_sent
from enginebay.verdict.certificate.audit import audit_run
from enginebay.verdict.certificate.certificate import (
    FILE_NAME,
    Certificate,
    Likeness,
    RunAudit,
    load_certificate,
    save_certificate,
)
from enginebay.verdict.certificate.likeness import likeness, likenesses

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


def check_for_comparison(first: Path, second: Path | None = None) -> list[str]:
    """That the results of one folder, or of two, were measured under one load. Returns what a reader must know besides.

    Raises NotComparable for a certificate that is missing though its result names it, that does not fit its files, or
    that shows another load.
    """
    folders = [first] if second is None else [first, second]
    caveats: list[str] = []
    certificates = [_certificate_of(folder, caveats) for folder in folders]
    for folder, certificate in zip(folders, certificates, strict=True):
        if certificate is not None:
            demand_identical(certificate, name=str(folder))
    if len(certificates) == 2 and certificates[0] is not None and certificates[1] is not None:
        demand_one_load(certificates[0], certificates[1])
    return caveats


def _certificate_of(folder: Path, caveats: list[str]) -> Certificate | None:
    named = load_result(folder).certificate_sha256
    if named is None:
        caveats.append(f"{folder.name}: nobody has audited what was sent, so that nothing shows the load as identical.")
        return None
    if not (folder / FILE_NAME).exists():
        raise NotComparable(f"{folder}: {FILE_NAME} is missing, which result.json names: keep both together")
    certificate = load_certificate(folder)
    if certificate.sha256 != named:
        raise NotComparable(f"{folder}: {FILE_NAME} is not the one that result.json names")
    if missing := [name for name in certificate.files if not (folder / name).exists()]:
        caveats.append(
            f"{folder.name}: the certificate could not be made again without {', '.join(missing)}; it is taken as it is."
        )
    elif problems := verify(certificate, folder):
        raise NotComparable(f"{folder}: {FILE_NAME} does not fit the results: {'; '.join(problems)}")
    return certificate


def demand_identical(certificate: Certificate, *, name: str) -> None:
    """Raises NotComparable. Where no run is valid there is nothing to refuse: the verdict says so."""
    if certificate.is_identical or not any(run.valid for run in certificate.runs):
        return
    faults = [f"{run.run.label}: {fault.detail}" for run, fault in certificate.faults if run.valid]
    apart = [
        f"{one.first.label} and {one.second.label}: {one.problem}" for one in certificate.likenesses if one.problem
    ]
    raise NotComparable(f"{name}: the load was not identical: {'; '.join([*faults, *apart][:3])}")


def demand_one_load(first: Certificate, second: Certificate) -> list[Likeness]:
    """Of two folders: each valid run of the second with the first in the first that was planned the same.

    Raises NotComparable where one is apart.
    """
    references = {audit.planned_sha256: audit for audit in reversed(first.runs) if audit.valid}
    found = [
        likeness(references[audit.planned_sha256], audit)
        for audit in second.runs
        if audit.valid and audit.planned_sha256 in references
    ]
    if apart := [one for one in found if one.level == "apart"]:
        one = apart[0]
        raise NotComparable(
            f"{one.first.label} and {one.second.label} were not sent the same load ({one.load}): {one.problem}"
        )
    return found


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
