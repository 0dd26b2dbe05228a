"""A search for capacities as text and as a page: files of its own, and a section of a report that stands beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from enginebay.loadtest.capacity.result import FILE_NAME, BackendCapacity, CapacityResult, load_capacity
from enginebay.loadtest.capacity.rows import (
    CAPACITY_HEADER,
    PROBE_HEADER,
    capacity_rows,
    capacity_sentences,
    probe_rows,
)
from enginebay.loadtest.files import write_atomically
from enginebay.report.pages import template
from enginebay.report.palettes import DARK, LIGHT

NAMES = ("capacity.md", "capacity.html")


def load_searched(folder: Path) -> CapacityResult | None:
    """What a search left in a folder of results; None where nobody searched. Raises LoadTestError."""
    return load_capacity(folder) if (folder / FILE_NAME).exists() else None


def write_capacity(result: CapacityResult, folder: Path) -> list[Path]:
    """capacity.md and capacity.html, in this order."""
    text = "\n".join([f"# Capacity of {result.model}", "", *_lines(result, heading="##")]) + "\n"
    for name, content in zip(NAMES, (text, render_capacity(result)), strict=True):
        write_atomically(folder / name, content.encode())
    return [folder / name for name in NAMES]


def render_capacity(result: CapacityResult) -> str:
    return template("capacity_page.html.j2").render(light=LIGHT, dark=DARK, **capacity_context(result))


def capacity_context(result: CapacityResult | None) -> dict[str, object]:
    """What the template `capacity.html.j2` reads."""
    if result is None:
        return {"capacity": None}
    return {
        "capacity": result,
        "capacity_sentences": capacity_sentences(result),
        "capacity_tables": [
            ("", CAPACITY_HEADER, capacity_rows(result)),
            *((_name(one), PROBE_HEADER, probe_rows(one)) for one in result.capacities),
        ],
        "is_capacity_simulated": any(one.simulated for one in result.capacities),
    }


def capacity_markdown(result: CapacityResult | None) -> Iterator[str]:
    """The section of a report."""
    if result is not None:
        yield from ("", "## How much it bears", "", f"Searched {result.created_at}.", "")
        yield from _lines(result, heading="###")


def _lines(result: CapacityResult, *, heading: str) -> Iterator[str]:
    yield from (f"- {_escaped(sentence)}" for sentence in capacity_sentences(result))
    yield ""
    yield from _table(CAPACITY_HEADER, capacity_rows(result))
    for one in result.capacities:
        yield from ("", f"{heading} {_escaped(_name(one))}", "")
        yield from _table(PROBE_HEADER, probe_rows(one))


def _name(capacity: BackendCapacity) -> str:
    return f"{capacity.label}, start {capacity.start_index + 1}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(map(_escaped, row))} |"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
