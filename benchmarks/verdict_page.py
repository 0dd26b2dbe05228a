"""The figures of docs/verdict.md out of the error rates that are kept.

python benchmarks/verdict_page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from page_section import with_section

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "results" / "verdict_error_rates.json"
PAGE = ROOT / "docs" / "verdict.md"
BEGIN, END = "<!-- figures: written by benchmarks/verdict_page.py -->", "<!-- end of figures -->"


def main() -> None:
    PAGE.write_text(with_figures(PAGE.read_text(), figures(json.loads(KEPT.read_text()))))


def with_figures(page: str, text: str) -> str:
    return with_section(page, text, begin=BEGIN, end=END)


def figures(report: dict[str, Any]) -> str:
    return "\n".join([*_same(report), "", *_found(report), "", *_rules(report)])


def _same(report: dict[str, Any]) -> Iterator[str]:
    yield "An engine against itself; at most 5 % may be wrong, and what chance adds to it in so many comparisons:"
    yield ""
    yield "| scatter of the starts | starts a side | in pairs | comparisons | any faster or slower | bound |"
    yield "|---|---|---|---|---|---|"
    for row in [*report["same_simulated"], *(report["same_recorded"] or [])]:
        is_recorded = row["scatter"].startswith("recorded")
        yield (
            f"| {row['scatter']}{'' if is_recorded else ' (simulated)'} | {row['num_starts']} | "
            f"{'yes' if row['paired'] else 'no'} | {row['num_comparisons']} | {_percent(row['wrong_ratio'])} | "
            f"{_percent(row['bound'])} |"
        )
    worst = max(row["wrong_ratio"] for row in report["wrongly_equivalent"])
    yield ""
    yield f"Where the true ratio lies on the margin, `equivalent` was said in at most {_percent(worst)}."


def _found(report: dict[str, Any]) -> Iterator[str]:
    noise = _percent(report["noise"])
    yield f"A true difference of 10 % at {noise} scatter, with the recommended number of starts (simulated):"
    yield ""
    yield "| questions | recommended starts a side | throughput found faster |"
    yield "|---|---|---|"
    for row in report["found"]:
        yield f"| {row['num_questions']} | {row['recommended_starts']} | {_percent(row['found_ratio'])} |"
    for row in report["found_from_pilots"]:
        told = row["recommended_starts"]
        yield (
            f"| 1, its scatter known from {row['num_pilots']} starts | {told['p50']:.0f} in the median, "
            f"{told['p10']:.0f} to {told['p90']:.0f} in four of five | {_percent(row['found_ratio'])} |"
        )


def _rules(report: dict[str, Any]) -> Iterator[str]:
    twice = report["looked_twice"]
    yield "Simpler rules, one figure of an engine against itself, and how often they find a difference (simulated):"
    yield ""
    yield "| starts | paired t-interval | percentile bootstrap | the rule here |"
    yield "|---|---|---|---|"
    *rows, requests = report["simpler_rules"]
    for row in rows:
        yield (
            f"| {row['num_starts']} | "
            + " | ".join(_percent(row[rule]) for rule in ("t-interval", "percentile bootstrap", "our rule"))
            + " |"
        )
    yield ""
    yield (
        f"Every request a unit, three starts of a hundred: {_percent(requests['every request a unit'])}. "
        f"Five starts, more where they decide nothing, and a second look: {_percent(twice['twice'])}, where one look "
        f"has {_percent(twice['once'])}."
    )


def _percent(ratio: float) -> str:
    return f"{ratio * 100:.1f} %"


if __name__ == "__main__":
    main()
