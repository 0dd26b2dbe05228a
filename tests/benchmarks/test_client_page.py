"""docs/client.md shows what was measured, and what was measured holds the bars."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from client_page import PAGE, figures, kept, with_figures  # noqa: E402

ACCURACY, CEILING = kept("client_accuracy"), kept("client_ceiling")


def test_the_page_shows_the_results_that_are_kept() -> None:
    page = PAGE.read_text()
    assert with_figures(page, figures(ACCURACY, CEILING)) == page


def test_the_errors_are_within_their_bars() -> None:
    assert ACCURACY["ttft"]["error_p99_s"] <= 0.002
    assert max(run["error_p99_s"] for run in ACCURACY["offsets"]) <= 0.002
    assert ACCURACY["token_counts"]["num_wrong"] == 0
    assert ACCURACY["token_counts"]["num_requests"] == 10_000


def test_against_a_server_that_is_fast_enough_the_client_is_four_times_vllm_bench_with_all_decoding() -> None:
    case = CEILING["cases"]["one write"]
    assert case["server_above_ours"] >= 1.5
    assert case["ratio_with_decoding"] >= 4
