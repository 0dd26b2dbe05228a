"""The example of the README is a config that plans, and the evidence is the same wherever it is told."""

from __future__ import annotations

import re
from pathlib import Path

from enginebay.config.loader import load_config
from enginebay.configured import check_backend, config_problems
from enginebay.plugins import find_backend

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_plans_and_every_setting_reaches_the_engine(tmp_path: Path) -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "config.yaml"
    file.write_text(example)
    config = load_config(file)
    assert config_problems(config) == []
    checked = check_backend(config)
    assert checked.spec.kind == "sglang"
    assert {outcome.setting for outcome in checked.plan.outcomes} == set(checked.context.settings)
    assert not checked.plan.unsupported


def test_every_mode_of_the_table_is_one_of_the_kind_and_the_first_is_its_default() -> None:
    told = re.findall(r"^\| `(\w+)`( \(default\))? \|", README, re.MULTILINE)
    modes = find_backend("sglang").modes
    assert {mode for mode, _ in told} == set(modes)
    assert [mode for mode, is_default in told if is_default] == [modes[0]]


def test_the_evidence_is_told_as_by_the_plugin() -> None:
    for part in ("contract checked (0.5.23): against a simulator", "has not run on a GPU"):
        assert part in find_backend("sglang").evidence
        assert part.lower() in README.lower()
