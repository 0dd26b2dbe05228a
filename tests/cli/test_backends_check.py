"""`enginebay backends --check`: what is measured, how it is shown, kept and answered."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

import enginebay.plugins
from enginebay.cli.main import run
from enginebay.probes import PROBES
from enginebay.probes.saved import load_probe_report

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "enginebay-echo"
CONFIG = """
version: 1
model: any
backend: plain
backends:
  plain: {kind: example_echo}
  slow: {kind: example_echo, options: {words_per_second: 100000}}
  broken: {kind: openai_http, url: "http://127.0.0.1:9", options: {start_timeout_s: 0.01, api_key: hunter2-hunter2}}
  lying: {kind: lying_echo}
"""
LYING = """
from dataclasses import replace
from enginebay import Feature, hookimpl
import enginebay_echo as honest

class LyingBackend(honest.EchoBackend):
    def __init__(self, context):
        super().__init__(context)
        features = self.info.capabilities.features | {Feature.SEED}
        self.info = replace(self.info, kind="lying_echo", capabilities=replace(honest.CAPABILITIES, features=features))

@hookimpl
def enginebay_backend():
    return replace(honest.enginebay_backend(), kind="lying_echo", create=LyingBackend)
"""
HONEST = """
from dataclasses import replace
from enginebay import hookimpl
import enginebay_echo as honest

@hookimpl
def enginebay_backend():
    return replace(honest.enginebay_backend(), kind="example_echo")
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Beside what is installed: the example package, and one that declares what it cannot do."""
    (tmp_path / "lying_echo.py").write_text(LYING)
    (tmp_path / "example_echo.py").write_text(HONEST)
    for folder in (EXAMPLE, tmp_path):
        monkeypatch.syspath_prepend(str(folder))
    for name in ("lying_echo", "example_echo", "enginebay_echo"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    group = "enginebay.backends"
    fakes = [EntryPoint(name, name, group) for name in ("lying_echo", "example_echo")]
    for fake in fakes:
        vars(fake).update(dist=SimpleNamespace(name="enginebay-echo"))
    real = list(enginebay.plugins.entry_points(group=group))
    monkeypatch.setattr(enginebay.plugins, "entry_points", lambda group: [*real, *fakes])
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "some.yaml"
    path.write_text(CONFIG)
    return str(path)


def cells(output: str, title: str) -> list[str]:
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line]
    [row] = [row for row in rows if row[0] == title]
    return row[1:]


def test_the_matrix_has_what_was_measured_and_is_saved_for_the_reports(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["backends", "--check", config, "--backend", "plain", "--backend", "slow", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert cells(output, "ignore_eos") == ["yes", "yes"]
    assert cells(output, "logprobs") == ["no", "no"]
    assert cells(output, "usage equals the tokens that arrived") == ["passed", "passed"]
    assert cells(output, "statistics count the tokens that were generated") == ["not told", "not told"]
    report = load_probe_report(tmp_path / "probes.json")
    assert report is not None
    assert [(backend.name, backend.kind, backend.simulated) for backend in report.backends] == [
        ("plain", "echo", False),
        ("slow", "echo", False),
    ]
    assert len(report.backends[0].results) == len(PROBES)
    assert report.hardware
    assert report.created_at.endswith("+00:00")


def test_a_failed_probe_ends_with_1_and_what_was_declared_stands_beside(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "found.json"
    assert run(["backends", "--check", config, "--backend", "lying", "--out", str(path)]) == 1
    output = capsys.readouterr().out
    assert cells(output, "seed") == ["FAILED 1 of 3, declared"]
    assert "lying: other seeds give other texts: the seeds 0 to 3 all gave" in output
    saved = json.loads(path.read_text())
    [failed] = [each for each in saved["backends"][0]["results"] if each["outcome"] == "failed"]
    assert (failed["name"], failed["feature"]) == ("other seeds give other texts", "seed")


def test_one_that_does_not_start_is_told_and_the_others_are_probed(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(["backends", "--check", config, "--backend", "broken", "--backend", "plain", "--out", str(tmp_path)]) == 1
    )
    output = capsys.readouterr().out
    assert "broken: start: broken: the server at http://127.0.0.1:9 was not ready" in output
    assert cells(output, "health says ready") == ["not probed", "passed"]
    assert "hunter2" not in output + (tmp_path / "probes.json").read_text()


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        (["--out", "x"], "go with --check"),
        (["--time-limit-factor", "2"], "go with --check"),
        (["--check", "CONFIG", "--all", "--backend", "plain"], "--backend and --all exclude each other"),
        (["--check", "CONFIG", "--backend", "plian"], "'plian'"),
        (["--check", "CONFIG", "--time-limit-factor", "0"], "--time-limit-factor: found 0; expected more than 0"),
    ],
)
def test_wrong_options_end_with_2_before_anything_starts(
    config: str, capsys: pytest.CaptureFixture[str], tokens: list[str], problem: str
) -> None:
    assert run(["backends", *(config if token == "CONFIG" else token for token in tokens)]) == 2
    captured = capsys.readouterr()
    assert problem in captured.err
    assert "starting" not in captured.out


def test_the_list_names_distributions_with_their_versions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert run(["backends"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│ reference ")]
    assert f"enginebay {enginebay.__version__}" in rows[0]
    assert "ran real" in rows[0]
