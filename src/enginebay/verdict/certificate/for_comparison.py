"""Whether results may be set against each other: what their certificates must show before."""

from __future__ import annotations

from pathlib import Path

from enginebay.errors import NotComparable
from enginebay.loadtest.result import load_result
from enginebay.verdict.certificate.certificate import FILE_NAME, Certificate, Likeness, load_certificate
from enginebay.verdict.certificate.certify import verify
from enginebay.verdict.certificate.likeness import likeness


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
            f"{folder.name}: without {', '.join(missing)} the certificate cannot be made again, and is taken as it is."
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
