"""Verdict, certificate and single requests in all forms of report."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re

import msgspec
import pytest
from report_fakes import save_three_policies
from rich.console import Console
from verdict_fakes import make_verdict, save_two_backends

from enginebay.errors import ConfigError
from enginebay.loadtest.validity.unchecked import Unchecked
from enginebay.report.curves import throughput_latency
from enginebay.report.data import load_report
from enginebay.report.html import render_html
from enginebay.report.markdown import render_markdown
from enginebay.report.picture import draw_picture, flaw, save_picture
from enginebay.report.requests_data import TICKS_PER_S, requests_data
from enginebay.report.terminal import print_runs
from enginebay.report.verdict_section import print_verdict, verdict_document


def terminal(report) -> str:
    console = Console(file=io.StringIO(), width=160)
    print_runs(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_verdict_comes_before_every_figure_in_page_and_text(tmp_path) -> None:
    save_two_backends(tmp_path)
    report = load_report(tmp_path)
    assert report.verdict is not None
    page, text = render_html(report), render_markdown(report)
    for content, figure in ((page, "The runs side by side"), (page, "Throughput and latency"), (text, "## Validity")):
        if figure in content:
            assert content.index(report.verdict.headline) < content.index(figure)
    for content in (page, text, terminal(report)):
        for told in ("slower", "equivalent", "0.713×", "about 7 more starts", "3.8 requests at a time"):
            assert told in content


def test_a_verdict_that_is_none_shows_no_outcome_whatever_the_figures(tmp_path) -> None:
    verdict = make_verdict(status="simulated")
    loads = [msgspec.structs.replace(load, status="simulated") for load in verdict.loads]
    verdict = msgspec.structs.replace(verdict, loads=tuple(loads))
    console = Console(file=io.StringIO(), width=160)
    print_verdict(verdict, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    table = printed[: printed.index("•")]
    assert "no verdict (simulated)" in table
    assert "slower" not in table
    assert "slower" not in verdict_document(verdict).split("|", 1)[1]


def test_several_starts_are_one_column_with_their_median_and_range(tmp_path) -> None:
    save_two_backends(tmp_path)
    report = load_report(tmp_path)
    rates = sorted(run.run.metrics.output_tokens_per_s for run in report.loads[0].runs if run.run.label == "continuous")
    text = render_markdown(report)
    row = next(line for line in text.splitlines() if line.startswith("| Output tokens per second | "))
    assert text.count("continuous, median of 3 starts") == 2
    assert f"{rates[1]:.3g}" in terminal(report)
    assert "to" in row


def test_throughput_and_latency_have_a_point_for_each_load(tmp_path) -> None:
    save_two_backends(tmp_path)
    figure = throughput_latency(load_report(tmp_path), "ttft_s", "p50")
    assert [trace["name"] for trace in figure["data"]] == ["continuous", "naive"]
    assert all(len(trace["x"]) == 2 for trace in figure["data"])
    save_three_policies(tmp_path)
    assert 'id="curves"' not in render_html(load_report(tmp_path)), "one load makes no curve"


def test_every_token_time_of_every_request_is_in_the_page(tmp_path) -> None:
    save_two_backends(tmp_path, num_requests=300, num_starts=1)
    report = load_report(tmp_path)
    tables = requests_data(report)
    assert [table["name"] for table in tables] == [
        "continuous, 4 users", "naive, 4 users", "continuous, 16 users", "naive, 16 users"
    ]  # fmt: skip
    record = next(record for record in report.loads[0].runs[1].records if record.index == 263)
    table = tables[1]
    block = json.loads(gzip.decompress(base64.b64decode(table["blocks"][263 // table["per_block"]])))
    packed = block[263 % table["per_block"]]
    at = 0
    times = [(at := at + ticks) / TICKS_PER_S for ticks in packed]
    assert times == pytest.approx([arrival.at - record.sent_at for arrival in record.arrivals], abs=1e-4)


def test_a_chunk_of_several_tokens_is_told_as_one(tmp_path) -> None:
    save_three_policies(tmp_path)
    report = load_report(tmp_path)
    record = report.runs[0].records[0]
    record.arrivals[1] = type(record.arrivals[1])(record.arrivals[1].at, 3)
    block = json.loads(gzip.decompress(base64.b64decode(requests_data(report)[0]["blocks"][0])))
    assert block[0][2] == -3


def test_an_error_message_cannot_break_out_of_the_page(tmp_path) -> None:
    save_three_policies(tmp_path, num_errors=3)
    page = render_html(load_report(tmp_path))
    [data] = re.findall(r'id="requests-data">(.*?)</script>', page, re.DOTALL)
    assert "<" not in data
    assert any(
        "EngineDied: the engine <went> away" in ending for run in json.loads(data)["runs"] for ending in run["endings"]
    )


def test_validity_is_told_in_a_section_of_its_own(tmp_path) -> None:
    save_three_policies(tmp_path)
    valid = load_report(tmp_path)
    assert "All 3 runs did what the plan says" in render_html(valid)
    save_three_policies(tmp_path, num_errors=5)
    invalid = load_report(tmp_path)
    for content in (render_html(invalid), render_markdown(invalid), terminal(invalid)):
        assert "INVALID" in content
        assert "errors" in content


def test_what_nobody_could_look_at_is_told_with_its_reason(tmp_path) -> None:
    unchecked = [Unchecked(code="prefix_cache", why="the engine tells nothing of its prefix cache")]
    save_three_policies(tmp_path, unchecked=unchecked)
    report = load_report(tmp_path)
    words = "Not looked at (prefix_cache) with continuous: the engine tells nothing of its prefix cache."
    for content in (render_html(report), render_markdown(report), " ".join(terminal(report).split())):
        assert words in content


def test_the_picture_says_how_many_runs_are_invalid(tmp_path) -> None:
    save_three_policies(tmp_path)
    assert flaw(load_report(tmp_path).runs) == ""
    save_three_policies(tmp_path, num_errors=5)
    runs = load_report(tmp_path).runs
    assert flaw(runs, of="runs ") == "1 of 3 runs INVALID"
    assert flaw(runs[-1:]) == "INVALID"


def test_the_picture_is_the_same_for_the_same_result_and_says_what_is_simulated(tmp_path) -> None:
    save_two_backends(tmp_path)
    report = load_report(tmp_path)
    assert draw_picture(report, form="svg") == draw_picture(report, form="svg")
    save_picture(report, tmp_path / "result.png")
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"\.svg or \.png"):
        save_picture(report, tmp_path / "result.gif")
    plain = len(draw_picture(report, form="svg"))
    save_three_policies(tmp_path, simulated=True)
    (tmp_path / "verdict.json").unlink()
    assert b"<svg" in draw_picture(load_report(tmp_path), form="svg")
    assert plain > 10_000
