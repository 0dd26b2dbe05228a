"""Checks of a plugin's README that are the same for every plugin: raise AssertionError."""

from __future__ import annotations

import re
from pathlib import Path

from enginebay.config.loader import load_config
from enginebay.configured import check_backend, config_problems
from enginebay.plugins import find_backend


def check_example(readme: str, kind: str, *, folder: Path) -> None:
    """The one YAML example is a config of this kind without problems, and each of its settings reaches the engine.

    folder: an empty one.
    """
    [example] = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    file = folder / "config.yaml"
    file.write_text(example, encoding="utf-8")
    config = load_config(file)
    assert config_problems(config) == []
    checked = check_backend(config)
    assert checked.spec.kind == kind
    assert {outcome.setting for outcome in checked.plan.outcomes} == set(checked.context.settings)
    assert not checked.plan.unsupported


def check_modes(readme: str, kind: str) -> None:
    """The table has every mode of the kind, and names the first as the default."""
    told = re.findall(r"^\| `(\w+)`( \(default\))? \|", readme, re.MULTILINE)
    modes = find_backend(kind).modes
    assert {mode for mode, _ in told} == set(modes)
    assert [mode for mode, is_default in told if is_default] == [modes[0]]
