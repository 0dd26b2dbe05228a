"""The saved capability matrix, in both reports."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from report_fakes import save_three_policies

from enginebay.errors import LoadTestError
from enginebay.probes import Outcome
from enginebay.probes.saved import ProbedBackend, ProbeReport, SavedResult, encode_report
from enginebay.report.data import load_report
from enginebay.report.html import render_html
from enginebay.report.markdown import render_markdown

REPORT = ProbeReport(
    schema_version=1,
    created_at="2026-11-22T08:00:00+00:00",
    enginebay_version="0.1.0",
    hardware="Example CPU, 2 cores, 16 GiB memory",
    backends=(
        ProbedBackend(
            name="mine",
            kind="reference",
            model="m",
            engine_version="0.1.0",
            simulated=False,
            declared_features=("logprobs", "seed"),
            results=(
                SavedResult(name="health says ready", outcome=Outcome.PASSED),
                SavedResult(name="a seed repeats itself", outcome=Outcome.FAILED, feature="seed", detail="a <b> | c"),
                SavedResult(name="every token has a logprob", outcome=Outcome.PASSED, feature="logprobs"),
            ),
        ),
        ProbedBackend(
            name="vllm",
            kind="vllm",
            model="m",
            engine_version="0.32.0",
            simulated=True,
            declared_features=("logprobs",),
            results=(
                SavedResult(name="health says ready", outcome=Outcome.SKIPPED, detail="no reason"),
                SavedResult(name="a seed repeats itself", outcome=Outcome.UNSUPPORTED, feature="seed"),
                SavedResult(name="every token has a logprob", outcome=Outcome.SKIPPED, feature="logprobs"),
            ),
        ),
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_three_policies(tmp_path)
    return tmp_path


def test_both_reports_show_the_matrix_of_the_folder(folder: Path) -> None:
    (folder / "probes.json").write_bytes(encode_report(REPORT))
    report = load_report(folder)
    markdown, html = render_markdown(report), render_html(report)
    assert "## What the backends can do" in markdown
    assert "| feature | mine reference 0.1.0 | vllm 0.32.0 SIMULATED |" in markdown
    assert "| seed | FAILED 1 of 1, declared | no |" in markdown
    assert "| logprobs | yes | not told, declared |" in markdown
    assert "| health says ready | passed | not told |" in markdown
    assert "- **mine**, a seed repeats itself: a &lt;b> \\| c" in markdown
    assert '<h2 id="probes">What the backends can do</h2>' in html
    assert "vllm 0.32.0 SIMULATED" in html
    assert '<span class="badge invalid">FAILED 1 of 1, declared</span>' in html
    assert "a &lt;b&gt; | c" in html
    assert "a <b> | c" not in html


def test_a_report_without_a_saved_matrix_says_nothing_of_it(folder: Path) -> None:
    report = load_report(folder)
    assert "What the backends can do" not in render_markdown(report) + render_html(report)


def test_a_simulated_backend_makes_the_section_say_so(folder: Path) -> None:
    (folder / "probes.json").write_bytes(encode_report(REPORT))
    assert "> **SIMULATED**: what is so labelled is a simulator" in render_markdown(load_report(folder))
    real = msgspec.structs.replace(REPORT, backends=REPORT.backends[:1])
    (folder / "probes.json").write_bytes(encode_report(real))
    assert "SIMULATED**: what is so labelled" not in render_markdown(load_report(folder))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{}", "is no result of `enginebay backends --check`"),
        (encode_report(msgspec.structs.replace(REPORT, schema_version=9)), "schema_version is 9"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_it(folder: Path, content: bytes, problem: str) -> None:
    (folder / "probes.json").write_bytes(content)
    with pytest.raises(LoadTestError, match=problem) as caught:
        load_report(folder)
    assert "probes.json" in str(caught.value)
