"""Every row of the lesson has a verdict, and what it names exists."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEMO_RESULT = ROOT / "benchmarks" / "results" / "demo.json"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "lesson.md").read_text().splitlines()
    if re.match(r"\| \d", line)
]
PARTS = {"1", "2", "3", "4", "5", "6", "7", "8.1", "8.2", "8.3", "8.4", "9", "10"}


def test_every_part_of_the_lesson_has_a_row_with_a_verdict() -> None:
    assert {row[0].split()[0] for row in ROWS} == PARTS
    assert all(len(row) == 5 and row[4] for row in ROWS)


def test_a_row_is_either_measured_or_says_that_it_is_not_built() -> None:
    for row in ROWS:
        is_built = row[2] != "not built yet"
        assert is_built == bool(row[3]) == (row[4] != "not built yet"), row


def test_no_figure_is_left_open_and_every_named_file_exists() -> None:
    text = " ".join(cell for row in ROWS for cell in row)
    assert "@" not in text
    for path in re.findall(r"`?((?:tests|configs)/[\w./-]+\.(?:py|yaml))", text):
        assert (ROOT / path).is_file(), path


def test_the_ratios_are_those_of_the_result_that_is_kept() -> None:
    runs = {run["label"]: run for run in json.loads(DEMO_RESULT.read_text())["runs"]}
    assert all(run["valid"] and not run["simulated"] for run in runs.values())
    naive, static, continuous = (
        runs[label]["metrics"]["output_tokens_per_s"] for label in ("naive", "static", "continuous")
    )
    measured = {row[0].split()[0]: row[3] for row in ROWS if row[0].split()[0] in {"1", "2", "3"}}
    assert f"{naive:.0f} output tokens/s" in measured["1"]
    assert f"{static:.0f} tokens/s, {static / naive:.1f} times naive" in measured["2"]
    assert f"{continuous:.0f} tokens/s, {continuous / naive:.1f} times naive" in measured["3"]
    assert f"{continuous / static:.2f} times static" in measured["3"]


def test_figures_of_techniques_are_those_of_their_page() -> None:
    page = (ROOT / "docs" / "techniques.md").read_text()
    for row in ROWS:
        if "(techniques.md" in row[3]:
            figures = re.findall(r"\d+(?:\.\d+)?[x%]", row[3])
            assert figures, row
            assert all(figure in page for figure in figures), row


def test_the_rate_of_the_checklist_was_held_without_a_failure() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "gateway_sustained.json").read_text())
    (row,) = [row for row in ROWS if "1,000 requests/s" in row[1]]
    assert (kept["offered_requests_per_s"], kept["seconds"]) == (1000.0, 600.0)
    assert kept["num_answered"] == kept["num_offered"] == 600_000
    assert kept["num_errors"] == 0
    assert "none failed" in row[3]
    assert "simulated" in row[4]
    assert kept["simulated"]
