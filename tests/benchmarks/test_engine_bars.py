"""docs/comparison.md shows what was measured of engines in one class of precision; medians of rounds hold the bars."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from engine_bars_page import BARS, KEPT_OWN, PAGE, judged, kept_result, section, with_sections  # noqa: E402

from enginebay.config.loader import load_config  # noqa: E402

CONFIG = load_config(ROOT / "configs" / "engine-bars.yaml", environment={})


def row(label: str, speeds: list[float], **others: object) -> dict[str, object]:
    ordered = sorted(speeds)
    return {
        "label": label, "users": 8, "num_starts": len(speeds), "is_valid": True, "simulated": False,
        "engine_version": "1", "invalid_reasons": [], "tokens_per_s_by_start": speeds, "ttft_p50_s": 0.1,
        "output_tokens_per_s": {"median": ordered[len(speeds) // 2], "min": ordered[0], "max": ordered[-1]},
        "tpot_p50_s": 0.01, "resident_bytes": 2**30, "configured_settings": {"dtype": "bfloat16"},
        "effective_settings": {"num_threads": 2}, **others,
    }  # fmt: skip


def result(*rows: dict[str, object]) -> dict[str, object]:
    return {
        "created_at": "2026-01-01T00:00:00+00:00", "workload": "some", "plan_sha256": "0" * 64, "num_repeats": 3,
        "environment": {"cpu": "a CPU", "num_cores": 2, "memory_bytes": 2**34}, "rows": list(rows), "failures": [],
        "tuning": {"vllm-bf16": {"environment": {"OMP_NUM_THREADS": "2"}, "options": {}}},
    }  # fmt: skip


def test_the_page_shows_the_results_that_are_kept() -> None:
    page = PAGE.read_text()
    assert with_sections(page) == page


def test_int8_with_keys_and_values_in_int8_holds_its_bars_against_bfloat16() -> None:
    bars = [bar for bar in judged(kept_result(KEPT_OWN)) if bar.engine == "reference-int8-kv8"]
    assert {bar.users for bar in bars} == {1, 8, 32}
    assert all(bar.is_met for bar in bars)


def test_every_engine_with_a_bar_is_an_entry_of_the_config_and_is_compared_at_its_loads() -> None:
    assert {name for pair in BARS for name in pair} == set(CONFIG.backends)
    assert all(set(by_users) == set(CONFIG.bench.users or ()) for by_users in BARS.values())


def test_a_bar_is_held_by_the_ratio_of_medians_and_shows_every_round() -> None:
    (bar,) = judged(result(row("reference-bf16", [90, 130, 120]), row("vllm-bf16", [100, 100, 90])))
    assert (bar.ratio, bar.is_met, bar.verdict) == (1.2, True, "met")
    assert [round(ratio, 2) for ratio in bar.ratios] == [0.9, 1.3, 1.33]


def test_a_bar_that_is_missed_says_so() -> None:
    (bar,) = judged(result(row("reference-bf16", [110] * 3), row("vllm-bf16", [100] * 3)))
    assert (bar.is_met, bar.verdict) == (False, "**missed**")


@pytest.mark.parametrize("flaw", [{"is_valid": False}, {"simulated": True}, {"num_starts": 2}])
def test_too_few_or_invalid_or_simulated_rounds_meet_no_bar(flaw: dict[str, object]) -> None:
    (bar,) = judged(result(row("reference-bf16", [200] * 3), row("vllm-bf16", [100] * 3, **flaw)))
    assert (bar.is_met, bar.verdict) == (False, "not enough valid rounds")


def test_a_stretch_is_told_where_it_is_reached() -> None:
    (bar,) = judged(result(row("reference-int8", [100] * 3), row("openvino-int8", [80] * 3)))
    assert bar.verdict == "met, and the better one"


def test_the_section_tells_how_an_engine_was_tuned() -> None:
    text = section(result(row("reference-bf16", [130] * 3), row("vllm-bf16", [100] * 3)))
    assert "| vllm-bf16 | OMP_NUM_THREADS=2 | dtype=bfloat16 | 2 |" in text
    assert "| reference-bf16 | vllm-bf16 | 8 | 1.30x | 1.30, 1.30, 1.30 | 1.2x | met |" in text


def test_nothing_measured_is_said() -> None:
    assert section({}) == "*not measured yet*"
