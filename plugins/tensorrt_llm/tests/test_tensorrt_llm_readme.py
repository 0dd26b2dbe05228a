"""Every configuration in the README is one that loads and plans."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from enginebay.config.loader import load_config
from enginebay.configured import check_backend, entry_names

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_plans_without_anything_unsupported(example: str, tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(example)
    config = load_config(file)
    for name in entry_names(config):
        checked = check_backend(config, name)
        if checked.spec.kind == "tensorrt_llm":
            assert not checked.plan.unsupported
