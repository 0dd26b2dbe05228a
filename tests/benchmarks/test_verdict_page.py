"""docs/verdict.md shows what was found, and what was found holds the promises."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import verdict_error_rates  # noqa: E402
from verdict_page import KEPT, PAGE, figures, with_figures  # noqa: E402

REPORT = json.loads(KEPT.read_text())


def test_the_page_shows_the_result_that_is_kept() -> None:
    page = PAGE.read_text()
    assert with_figures(page, figures(REPORT)) == page


def test_an_engine_against_itself_is_found_different_in_one_of_twenty_at_most() -> None:
    assert REPORT["num_comparisons"] == 2000
    assert all(row["wrong_ratio"] <= row["bound"] <= 0.08 for row in REPORT["same_simulated"])
    for row in REPORT["same_recorded"] or []:
        assert row["wrong_ratio"] <= row["bound"] or row["scatter"] == "recorded, in turns"


def test_ten_percent_are_found_in_four_of_five_cases_with_the_recommended_number() -> None:
    assert [row["recommended_starts"] for row in REPORT["found"]] == [7, 11, 13]
    assert min(row["found_ratio"] for row in REPORT["found"]) >= 0.8


@pytest.mark.parametrize("scatter", ["normal", "heavy-tailed", "lopsided"])
def test_a_handful_of_comparisons_gives_what_the_whole_run_gave(scatter) -> None:
    drawn = verdict_error_rates._pairs_of_sides(verdict_error_rates.SCATTERS[scatter], 5, 80, seed=11)
    row = verdict_error_rates._same(scatter, drawn, num_starts=5, is_paired=True)
    assert row["wrong_ratio"] <= row["bound"]


def test_recorded_starts_are_dealt_out_by_chance_and_in_turns(tmp_path) -> None:
    starts = np.exp(np.random.default_rng(0).normal(0, 0.05, (16, 2, 7))).tolist()
    starts = [[[*load[:-1], None] for load in start] for start in starts]  # a figure that no run tells
    recorded = tmp_path / "starts.json"
    recorded.write_text(json.dumps({"starts": starts}))
    rows = verdict_error_rates.same_recorded(recorded, 60)
    assert [(row["scatter"], row["num_starts"], row["num_comparisons"]) for row in rows if row["num_starts"] == 5] == [
        ("recorded, dealt by chance", 5, 60), ("recorded, dealt by chance", 5, 60), ("recorded, in turns", 5, 7),
    ]  # fmt: skip
    assert all(row["wrong_ratio"] <= row["bound"] for row in rows if "chance" in row["scatter"])
    assert verdict_error_rates.same_recorded(tmp_path / "none.json", 60) is None
