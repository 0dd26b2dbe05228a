"""The section of a report that shows what `enginebay backends --check` found, where a folder of results has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from enginebay.probes.matrix import Row, check_rows, feature_rows, heading, problems
from enginebay.probes.saved import FILE_NAME, ProbeReport, load_probe_report


def load_probes(folder: Path) -> ProbeReport | None:
    """Raises LoadTestError for a file that cannot be used."""
    return load_probe_report(folder / FILE_NAME)


def probes_markdown(probes: ProbeReport | None) -> Iterator[str]:
    if probes is None:
        return
    yield from ("", "## What the backends can do", "")
    yield f"Measured on the running engines, {probes.created_at}, on {_escaped(probes.hardware)}."
    if probes.is_simulated:
        yield from ("", "> **SIMULATED**: what is so labelled is a simulator, and no engine.")
    yield from _table(probes, "feature", feature_rows(probes))
    yield from _table(probes, "check", check_rows(probes))
    for problem in problems(probes):
        yield from ("", f"- **{_escaped(problem.backend)}**, {_escaped(problem.check)}: {_escaped(problem.detail)}")


def probes_context(probes: ProbeReport | None) -> dict[str, object]:
    """What the template `probes.html.j2` reads."""
    if probes is None:
        return {"probes": None}
    return {
        "probes": probes,
        "probed": [heading(backend) for backend in probes.backends],
        "probe_tables": (("Feature", feature_rows(probes)), ("Check", check_rows(probes))),
        "probe_problems": problems(probes),
    }


def _table(probes: ProbeReport, title: str, rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    yield ""
    yield f"| {title} | " + " | ".join(_escaped(heading(backend)) for backend in probes.backends) + " |"
    yield "|---|" + "---|" * len(probes.backends)
    for row in rows:
        yield f"| {_escaped(row.title)} | " + " | ".join(_escaped(cell.text) for cell in row.cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
