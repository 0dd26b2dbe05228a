"""Puts the reports beside the results they tell of."""

from __future__ import annotations

from pathlib import Path

from enginebay.loadtest.files import write_atomically
from enginebay.report.data import Report
from enginebay.report.html import render_html
from enginebay.report.markdown import render_markdown


def write_reports(report: Report, folder: Path) -> list[Path]:
    """report.md and report.html, in this order."""
    contents = {"report.md": render_markdown(report), "report.html": render_html(report)}
    for name, content in contents.items():
        write_atomically(folder / name, content.encode())
    return [folder / name for name in contents]
