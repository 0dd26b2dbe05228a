"""docs/comparison.md shows what was measured, and nothing else."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from comparison_page import KEPT, PAGE, figures, with_figures  # noqa: E402

RESULT = json.loads(KEPT.read_text())


def test_the_page_shows_the_result_that_is_kept() -> None:
    page = PAGE.read_text()
    assert with_figures(page, figures(RESULT)) == page


def test_the_result_is_of_real_engines_under_one_plan() -> None:
    assert RESULT["status"] == "complete"
    assert {run["label"] for run in RESULT["runs"]} == {"reference", "vllm", "openvino"}
    assert {run["load"]["users"] for run in RESULT["runs"]} == {1, 8, 32}
    for run in RESULT["runs"]:
        assert not run["simulated"]
        assert run["metrics"]["num_errors"] == 0
        assert run["transport"] == "http"
