"""docs/techniques.md shows what was measured and nothing else; verdicts follow from figures."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from engine_tables import ENGINE_TABLES, batch_invariance, quantization_quality  # noqa: E402
from row_cost import fitted_ratio, ratios  # noqa: E402
from technique_claims import CLAIMS, HOLDS, NOT_HERE, NOT_MEASURED  # noqa: E402
from technique_tables import technique_block  # noqa: E402
from techniques_page import BLOCK, KEPT, PAGE, PLOT, kept_result, with_figures  # noqa: E402
from techniques_plot import TITLES, plot  # noqa: E402

from enginebay.engine.speculation.build import ROW_COST_RATIO  # noqa: E402

MANY_USERS = 192
STATIC_CLAIM = next(claim for claim in CLAIMS if claim.says.startswith("static"))
MEMORY_CLAIM = next(claim for claim in CLAIMS if claim.says == "int8: half the memory")


def row(label: str, tokens_per_s: float, **others: object) -> dict[str, object]:
    return {
        "label": label, "users": 16, "num_starts": 3, "is_valid": True, "simulated": False, "invalid_reasons": [],
        "output_tokens_per_s": {"median": tokens_per_s, "min": tokens_per_s, "max": tokens_per_s},
        "ttft_p50_s": 0.5, "ttft_p99_s": 1.5, "tpot_p50_s": 0.02, "cached_ratio": 0.0, "weight_bytes": 2**28,
        "kv_cache_bytes": 2**27, "resident_bytes": 2**30, "price_per_million_tokens": 0.2, **others,
    }  # fmt: skip


def groups(**rows: list[dict[str, object]]) -> dict[str, object]:
    return {name: {"workload": "some", "rows": found, "failures": []} for name, found in rows.items()}


def test_the_page_shows_the_result_that_is_kept() -> None:
    page = PAGE.read_text()
    assert with_figures(page, kept_result()) == page


def test_the_plot_is_that_of_the_result_that_is_kept() -> None:
    assert PLOT.exists() == KEPT.exists()
    if KEPT.exists():
        assert PLOT.read_text() == plot(kept_result())


def test_a_result_that_is_kept_is_a_whole_measurement_of_real_engines() -> None:
    if not KEPT.exists():
        pytest.skip("nothing is measured yet")
    result = json.loads(KEPT.read_text())
    assert not result["is_quick"]
    assert set(result["groups"]) == set(TITLES)
    for group in result["groups"].values():
        assert not group["failures"]
        assert not any(found.get("simulated") for found in group["rows"])


def test_every_technique_has_a_place_on_the_page() -> None:
    assert {found["name"] for found in BLOCK.finditer(PAGE.read_text())} == {"head", *TITLES, *ENGINE_TABLES}
    assert {claim.technique for claim in CLAIMS} <= set(TITLES)


def test_without_a_result_the_page_says_so_and_no_claim_has_a_verdict() -> None:
    assert "not measured yet" in technique_block("policies", {})
    assert {claim.verdict({}) for claim in CLAIMS} == {NOT_MEASURED}


@pytest.mark.parametrize(
    ("static", "verdict"), [(80.0, HOLDS), (79.6, HOLDS), (79.4, NOT_HERE), (43.0, NOT_HERE), (120.0, HOLDS)]
)
def test_a_claim_holds_where_the_ratio_rounds_to_it_or_is_more(static: float, verdict: str) -> None:
    found = groups(policies=[row("naive", 10.0), row("static", static)])
    assert STATIC_CLAIM.verdict(found).split(":")[0] == verdict
    assert f"{static / 10:.2f}x" in STATIC_CLAIM.verdict(found)


@pytest.mark.parametrize("flaw", [{"is_valid": False}, {"simulated": True}])
def test_a_row_that_did_not_do_its_work_or_is_simulated_gives_no_verdict(flaw: dict[str, bool]) -> None:
    found = groups(policies=[row("naive", 10.0), row("static", 90.0, **flaw)])
    assert STATIC_CLAIM.verdict(found) == NOT_MEASURED


def test_memory_is_compared_the_other_way_round() -> None:
    found = groups(
        precision=[row("bfloat16", 1.0, users=32, weight_bytes=200), row("int8", 1.0, users=32, weight_bytes=100)]
    )
    assert MEMORY_CLAIM.verdict(found).startswith(f"{HOLDS}: 2.00x")


def test_what_this_project_wants_is_met_to_the_last_digit_or_missed() -> None:
    (wanted,) = (claim for claim in CLAIMS if claim.is_ours and claim.says.startswith("at least 2.5 times"))
    for speed, word in ((25.0, "met"), (24.99, "**missed**")):
        found = groups(prefix_cache=[row("no-prefix-cache", 10.0), row("prefix-cache", speed)])
        assert wanted.verdict(found).split(":")[0] == word


@pytest.mark.parametrize(
    ("flaw", "verdict"),
    [
        ({}, "met: 2.00x"),
        ({"num_pairs": 9}, "not enough pairs, 9 of 10: 2.00x"),
        ({"differing_prompts": ["letter"]}, "**missed**, 1 answers differ: 2.00x"),
    ],
)
def test_what_is_wanted_of_drafts_is_met_by_enough_pairs_with_the_same_answers(
    flaw: dict[str, object], verdict: str
) -> None:
    (wanted,) = (claim for claim in CLAIMS if claim.is_ours and claim.says.startswith("prompt lookup: at least 1.5"))
    told = {"prompts": "copy", "ratio": {"median": 2.0}, "num_pairs": 10, "differing_prompts": [], **flaw}
    assert wanted.verdict(groups(speculation=[row("ngram", 20.0, **told)])).startswith(verdict)


def test_a_table_has_every_row_and_failures_are_told() -> None:
    found = groups(policies=[row("naive", 10.0), row("static", 43.0)])
    found["policies"]["failures"] = [{"label": "continuous", "error": "EngineDied: gone"}]  # type: ignore[index]
    text = technique_block("policies", {"groups": found})
    assert "| naive | 16 | 10.0 (10.0 to 10.0) | 500 ms | 1.50 s | 20.0 ms | 256 MiB | 128 MiB | 1,024 MiB |" in text
    assert "**failed**: continuous: EngineDied: gone" in text
    assert f"{NOT_HERE}: 4.30x" in text


def test_the_plot_has_a_bar_for_each_row_and_the_longest_for_the_fastest() -> None:
    drawn = plot({"groups": groups(policies=[row("naive", 10.0), row("static & co", 40.0)])})
    assert drawn.count("<rect") == 2
    assert "static &amp; co, 16 users" in drawn
    assert 'width="480.0"' in drawn
    assert 'width="120.0"' in drawn


@pytest.mark.parametrize(("ratio", "verdict"), [(1.02, "| met |"), (1.0201, "| **missed** |")])
def test_quality_is_told_by_pair_and_held_to_its_bound(ratio: float, verdict: str) -> None:
    form = {"form": "int8", "kernels": "native", "weight_bytes": 129 * 2**20, "perplexity": 12.345}
    pair = {
        "first": "bfloat16", "second": "int8", "perplexity_ratio": ratio, "perplexity_ratio_low": 1.01,
        "perplexity_ratio_high": 1.03, "equal_best_token_ratio": 0.951, "greedy_answers_that_part": 20,
        "num_greedy_answers": 50,
    }  # fmt: skip
    text = {"source": "some text", "num_windows": 40, "window_tokens": 512}
    told = quantization_quality({"environment": {"cpu": "a CPU"}, "text": text, "forms": [form], "pairs": [pair]})
    line = f"| int8 | native | 129 MiB | 12.35 | bfloat16 | {ratio:.4f} (1.0100 to 1.0300) | 95.1% | 20 of 50 {verdict}"
    assert told.splitlines()[-1] == line


def test_the_cost_of_batch_invariance_is_told_for_each_form_of_kernels() -> None:
    speed = {"median": 10.0, "min": 9.0, "max": 11.0}
    batch = {
        "batch_size": 8, "output_tokens_per_s": speed, "output_tokens_per_s_batch_invariant": speed | {"median": 2.5},
        "speed_ratio": {"median": 0.25, "min": 0.2, "max": 0.3}, "num_compared_alone": 3, "num_changed_without": 1,
        "num_changed_with": 0,
    }  # fmt: skip
    runs = [
        {"kernels": kernels, "num_input_tokens": 32, "num_output_tokens": 16, "batches": [batch]}
        for kernels in ("native", "plain")
    ]
    environment = {"cpu": "a CPU"}
    told = batch_invariance({"created_at": "2026-01-02", "environment": environment, "dtype": "float32", "runs": runs})
    line = "| 32, 16 | 8 | 10.0 | 2.5 | 0.25x (0.20 to 0.30) | 1 of 3 | 0 of 3 |"
    assert told.splitlines()[-2:] == [f"| native {line}", f"| plain {line}"]


def test_the_cost_of_a_row_is_told_beside_what_drafts_are_reckoned_with() -> None:
    steps = {1: 0.010, 3: 0.012, 5: 0.014}
    assert ratios(steps) == {3: pytest.approx(0.1), 5: pytest.approx(0.1)}
    assert fitted_ratio(steps) == pytest.approx(0.1)
    assert json.loads((KEPT.parent / "row_cost.json").read_text())["assumed_ratio"] == ROW_COST_RATIO
