"""docs/load-testing.md says what is there: its YAML is valid, and it names no flag that does not exist."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from enginebay.cli.bench.help_text import COMPARE_HELP, HELP
from enginebay.cli.bench.sweeping import read_sweep
from enginebay.cli.main import run
from enginebay.config.loader import parse_config

PAGE = (Path(__file__).parents[2] / "docs" / "load-testing.md").read_text()
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def test_the_examples_are_a_config_and_a_sweep_of_it(tmp_path) -> None:
    config, sweep = BLOCKS
    assert parse_config(config).bench.starts == 3
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "sweep.yaml").write_text(sweep)
    assert len(read_sweep(tmp_path / "sweep.yaml", tmp_path / "config.yaml", backend=None).names) == 4


def test_page_and_help_name_flags_that_exist(capsys) -> None:
    run(["bench", "--help"])
    flags = set(re.findall(r"│ (--[a-z-]+)", capsys.readouterr().out))
    assert {"--url", "--resume", "--sweep", "--replay", "--capacity", "--self-check", "--fail-on", "--picture"} <= flags
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE + HELP)) <= flags


def test_help_of_compare_names_flags_that_exist(capsys) -> None:
    run(["compare", "--help"])
    flags = set(re.findall(r"│ (--[a-z-]+)", capsys.readouterr().out))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", COMPARE_HELP)) <= flags != set()


@pytest.mark.parametrize("text", [HELP, COMPARE_HELP])
def test_no_line_of_the_help_is_broken_on_eighty_columns(text: str) -> None:
    first, _, rest = text.partition("\n")
    assert first
    assert max(map(len, rest.splitlines())) <= 78
