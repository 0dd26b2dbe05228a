"""The example of the README is a config that plans, and the evidence is the same wherever it is told."""

from __future__ import annotations

from pathlib import Path

from enginebay.plugins import find_backend
from enginebay.testing.plugin_readme import check_example

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_plans_and_every_setting_reaches_the_engine(tmp_path: Path) -> None:
    check_example(README, "openvino", folder=tmp_path)


def test_what_ran_for_real_is_told_as_by_the_plugin() -> None:
    evidence = find_backend("openvino").evidence
    for part in ("OpenVINO GenAI 2026.4.1", "2-core x86-64 CPU", "2026-11-22", "Intel GPUs: not run"):
        assert part in evidence
        assert part in README
