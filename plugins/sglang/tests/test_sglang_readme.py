"""The example of the README is a config that plans, and the evidence is the same wherever it is told."""

from __future__ import annotations

from pathlib import Path

from enginebay.plugins import find_backend
from enginebay.testing.plugin_readme import check_example, check_modes

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_plans_and_every_setting_reaches_the_engine(tmp_path: Path) -> None:
    check_example(README, "sglang", folder=tmp_path)


def test_every_mode_of_the_table_is_one_of_the_kind_and_the_first_is_its_default() -> None:
    check_modes(README, "sglang")


def test_the_evidence_is_told_as_by_the_plugin() -> None:
    for part in ("contract checked (0.5.23): against a simulator", "has not run on a GPU"):
        assert part in find_backend("sglang").evidence
        assert part.lower() in README.lower()
