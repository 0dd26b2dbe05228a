"""The page about equal answers says what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
RESULT = json.loads((REPOSITORY / "benchmarks/results/greedy_agreement.json").read_text(encoding="utf-8"))


def test_the_table_of_the_page_is_that_of_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    from greedy_agreement import table  # pyright: ignore[reportMissingImports]

    assert table(RESULT["pairs"]) in (REPOSITORY / "docs/equality.md").read_text(encoding="utf-8")


def test_float32_agrees_and_bfloat16_parts_at_ties_alone() -> None:
    float32, bfloat16, *yardstick = RESULT["pairs"]
    assert float32["num_prompts_that_part"] == 0
    gaps = [(parted["first_gap"], parted["second_gap"]) for parted in bfloat16["partings"]]
    assert len(gaps) == 25
    assert sum(0.0 in pair for pair in gaps) == 23
    assert sum(sorted(pair) == [0.0, 0.125] for pair in gaps) == 21
    assert max(map(max, gaps)) == bfloat16["largest_gap_at_parting"] == 0.25
    own = [pair["num_prompts_that_part"] for pair in yardstick]
    assert bfloat16["num_prompts_that_part"] <= min(own)
