"""The example of the README is a config that can be planned."""

from __future__ import annotations

import re
from pathlib import Path

from enginebay.config.loader import load_config
from enginebay.plugins import find_backend
from enginebay_tgi.plugin import EVIDENCE

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_is_a_config_of_this_kind(tmp_path: Path) -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "config.yaml"
    file.write_text(example)
    assert load_config(file).backend == "tgi"


def test_the_evidence_is_the_same_everywhere_and_does_not_say_supported() -> None:
    assert find_backend("tgi").evidence == EVIDENCE
    assert "has not run against a real TGI" in EVIDENCE
    assert "contract checked (TGI 3.3.7)" in README
    assert "has not run against a real TGI" in README
