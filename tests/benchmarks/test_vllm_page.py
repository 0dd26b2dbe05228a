"""docs/vllm-against-reference.md shows the comparison that lies beside it, and that comparison is whole and real."""

import sys
from pathlib import Path

from enginebay.loadtest.result import load_result
from enginebay.verdict.certificate.certificate import load_certificate
from enginebay.verdict.verdict import load_verdict

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from vllm_page import KEPT, PAGE, figures, kept, with_figures  # noqa: E402

NAMES = ("reference", "vllm")
PICTURE = ROOT / "docs" / "assets" / "vllm-against-reference.png"


def test_the_page_shows_the_comparison_that_is_kept() -> None:
    page = PAGE.read_text()
    assert with_figures(page, figures(kept("verdict"), kept("certificate"), kept("result"))) == page


def test_both_engines_were_real_and_started_four_times_under_three_loads() -> None:
    result = load_result(KEPT)
    assert not any(run.simulated for run in result.runs)
    assert len({run.transport for run in result.runs}) == 1
    seen = {(run.backend, run.load.users, run.start_index) for run in result.runs}
    assert seen == {
        (name, users, start) for name in ("reference", "vllm") for users in (1, 8, 32) for start in range(4)
    }


def test_at_least_three_starts_of_each_are_valid_under_every_load() -> None:
    valid = [(run.backend, run.load.users) for run in load_result(KEPT).runs if run.valid]
    assert min(valid.count((name, users)) for name in NAMES for users in (1, 8, 32)) >= 3


def test_verdict_certificate_and_report_are_of_this_result() -> None:
    result, verdict, certificate = load_result(KEPT), load_verdict(KEPT), load_certificate(KEPT)
    assert verdict.plan_sha256 == certificate.plan_sha256 == result.plan_sha256
    assert certificate.is_identical
    assert not certificate.simulated
    report = (KEPT / "report.html").read_text()
    assert certificate.sha256 in report
    assert verdict.headline in report


def test_the_picture_is_shown_where_a_visitor_looks_first() -> None:
    assert PICTURE.read_bytes().startswith(b"\x89PNG")
    assert f"docs/assets/{PICTURE.name}" in (ROOT / "README.md").read_text()
