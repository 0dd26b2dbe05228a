"""Puts the reports beside the results they tell of."""

from __future__ import annotations

from pathlib import Path

from enginebay.errors import LoadTestError
from enginebay.loadtest.files import write_atomically
from enginebay.report.data import Report
from enginebay.report.html import render_html
from enginebay.report.markdown import render_markdown
from enginebay.verdict.certificate.certificate import FILE_NAME as CERTIFICATE
from enginebay.verdict.verdict import FILE_NAME as VERDICT

NAMES = ("report.md", "report.html")
OF_EARLIER = (*NAMES, VERDICT, CERTIFICATE)
"""What tells of the results beside it, and must not stand beside others."""


def remove_reports(folder: Path) -> None:
    """Of an earlier load test, so that none stands beside results that it does not tell of."""
    for name in OF_EARLIER:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise LoadTestError(f"{folder / name}: cannot be removed: {error.strerror}") from error


def write_reports(report: Report, folder: Path) -> list[Path]:
    """report.md and report.html, in this order."""
    for name, content in zip(NAMES, (render_markdown(report), render_html(report)), strict=True):
        write_atomically(folder / name, content.encode())
    return [folder / name for name in NAMES]
