"""docs/keys-and-limits.md shows a config that loads, commands that exist, and tests that are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from enginebay.cli.main import run
from enginebay.config.loader import parse_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "keys-and-limits.md").read_text()


def test_the_config_of_the_page_loads() -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    gateway = parse_config(text).gateway
    assert gateway is not None
    assert gateway.access is not None
    assert gateway.has_budgets


def test_the_commands_of_the_page_do_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    [config] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    Path("gateway.yaml").write_text(config)
    key_id = printed = ""
    for line in re.findall(r"^enginebay (keys .*)$", PAGE, re.MULTILINE):
        words = [word.replace('"', "") for word in re.findall(r'"[^"]*"|\S+', line)]
        assert run([key_id if word == "4f0c1d2e3a4b5c6d" else word for word in words]) == 0
        printed = capsys.readouterr().out
        key_id = printed.split("-")[1] if words[1] == "create" else key_id
    assert f"revoked: {key_id} of 'team blue'" in printed


def test_every_test_that_the_page_names_is_there() -> None:
    names = set(re.findall(r"[\w/]*test_\w+\.py", PAGE))
    assert len(names) >= 7
    files = [str(path) for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in names if not any(file.endswith(f"/{name}") for file in files)] == []


def test_the_figures_of_the_page_are_those_of_the_run() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "gateway_limits.json").read_text())
    assert result["simulated"]
    assert all(result["bars"].values())
    phases = result["phases"]
    rows = {
        "requests": phases["requests"]["engine"]["num_requests"],
        "tokens": phases["tokens"]["most_taken_in_redis"]["tokens"],
        "at_once": phases["at_once"]["engine"]["most_running"],
        "money": phases["money"]["most_taken_in_redis"]["cost_nano"] / 1e9,
    }
    measured = PAGE.partition("## Measured")[2].partition("\n## ")[0]
    for name, came_through in rows.items():
        allowed, refused = result["limits"][name], phases[name]["statuses"]["429"]
        shown = f"{came_through:,.3f}" if name == "money" else f"{came_through:,}"
        assert f"| {allowed:,} | {shown} | {refused:,} |" in measured
        assert came_through <= allowed
    assert f"{result['num_clients']} clients" in measured
    assert f"for {result['seconds_each']:g} s" in measured
