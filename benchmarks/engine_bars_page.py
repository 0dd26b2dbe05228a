"""The section of docs/comparison.md on engines of one class of precision, and the bars that its figures are held to.

python benchmarks/engine_bars_page.py             # writes it out of the result that is kept
python benchmarks/engine_bars_page.py --check     # exit code 1 where the page says something else
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from technique_tables import NOT_MEASURED, mebibytes, milliseconds, spread

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "results" / "engine_bars.json"
PAGE = ROOT / "docs" / "comparison.md"
BEGIN, END = "<!-- engine bars: written by benchmarks/engine_bars_page.py -->", "<!-- end of engine bars -->"
KEPT_OWN = ROOT / "benchmarks" / "results" / "engine_bars_own.json"
"""Another run, of the reference engine alone."""
BEGIN_OWN, END_OWN = "<!-- own forms: written by benchmarks/engine_bars_page.py -->", "<!-- end of own forms -->"
NUM_REPEATS = 3
"""Fewer give no verdict."""

BARS: dict[tuple[str, str], dict[int, tuple[float, float | None]]] = {
    ("reference-bf16", "vllm-bf16"): {1: (1.2, None), 8: (1.2, None), 32: (1.2, None)},
    ("reference-int8", "vllm-int8"): {1: (1.5, None), 8: (1.2, None), 32: (1.5, None)},
    ("reference-bf16", "openvino-16bit"): {1: (0.7, None), 8: (0.7, None), 32: (0.7, None)},
    ("reference-int8", "openvino-int8"): {1: (0.9, 1.0), 8: (1.0, 1.0), 32: (1.1, 1.2)},
    ("reference-int8", "reference-bf16"): {1: (1.3, None), 8: (1.3, None), 32: (1.4, 1.6)},
    ("reference-int8-kv8", "reference-bf16"): {1: (1.3, None), 8: (1.3, None), 32: (1.4, 1.6)},
}
"""By engine, the one it is compared with, and users: the least ratio of output tokens a second, and a better one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    engine: str
    against: str
    users: int
    least: float
    better: float | None
    ratio: float
    """Of the medians."""
    ratios: tuple[float, ...]
    """Of each round."""
    is_measured: bool
    """By enough rounds, all of them valid."""

    @property
    def is_met(self) -> bool:
        return self.is_measured and self.ratio >= self.least

    @property
    def verdict(self) -> str:
        if not self.is_measured:
            return "not enough valid rounds"
        if not self.is_met:
            return "**missed**"
        return "met, and the better one" if self.better is not None and self.ratio >= self.better else "met"

    def __str__(self) -> str:
        return f"{self.engine} against {self.against}, {self.users} users: {self.ratio:.2f}x of {self.least}x"


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    written = with_sections(page)
    if "--check" in sys.argv:
        if written != page:
            print("docs/comparison.md does not say what the result says: run benchmarks/engine_bars_page.py")
        return 0 if written == page else 1
    PAGE.write_text(written, encoding="utf-8")
    return 0


def kept_result(path: Path = KEPT) -> dict[str, Any]:
    """Empty before anything was measured."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def with_sections(page: str) -> str:
    page = _with_section(page, section(kept_result()), begin=BEGIN, end=END)
    return _with_section(page, section(kept_result(KEPT_OWN)), begin=BEGIN_OWN, end=END_OWN)


def _with_section(page: str, text: str, *, begin: str, end: str) -> str:
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def judged(result: Mapping[str, Any]) -> list[Bar]:
    """Those for which both engines have figures under the same load."""
    rows = {(row["label"], row["users"]): row for row in result.get("rows", ())}
    return [
        _bar(rows[engine, users], rows[against, users], least=least, better=better)
        for (engine, against), by_users in BARS.items()
        for users, (least, better) in by_users.items()
        if (engine, users) in rows and (against, users) in rows
    ]


def _bar(mine: Mapping[str, Any], theirs: Mapping[str, Any], *, least: float, better: float | None) -> Bar:
    by_round = zip(mine["tokens_per_s_by_start"], theirs["tokens_per_s_by_start"], strict=False)
    return Bar(
        engine=mine["label"],
        against=theirs["label"],
        users=mine["users"],
        least=least,
        better=better,
        ratio=mine["output_tokens_per_s"]["median"] / theirs["output_tokens_per_s"]["median"],
        ratios=tuple(a / b for a, b in by_round),
        is_measured=all(
            row["is_valid"] and not row["simulated"] and row["num_starts"] >= NUM_REPEATS for row in (mine, theirs)
        ),
    )


# ---------------------------------------------------------------- Markdown


def section(result: Mapping[str, Any]) -> str:
    if not result:
        return NOT_MEASURED
    failures = [f"- **failed**: {failure['label']}: {failure['error']}" for failure in result["failures"]]
    parts = [_head(result), _figures(result), _verdicts(result), _tuning(result), *failures]
    return "\n\n".join(part for part in parts if part)


def _head(result: Mapping[str, Any]) -> str:
    environment = result["environment"]
    return (
        f"Measured {result['created_at'][:10]} on {environment['cpu']}, {environment['num_cores']} cores, "
        f"{environment['memory_bytes'] / 2**30:.0f} GiB. Load: {result['workload']}; plan "
        f"`{result['plan_sha256'][:12]}`; medians of {result['num_repeats']} interleaved rounds."
    )


def _figures(result: Mapping[str, Any]) -> str:
    lines = [
        "| users | engine | version | output tokens/s (least to most) | TTFT p50 | TPOT p50 | process | valid |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(result["rows"], key=lambda row: row["users"]):
        valid = "yes" if row["is_valid"] else "**no**: " + "; ".join(row["invalid_reasons"])
        cells = [
            str(row["users"]),
            row["label"],
            row["engine_version"] or "unknown",
            spread(row["output_tokens_per_s"]),
            milliseconds(row["ttft_p50_s"]),
            milliseconds(row["tpot_p50_s"]),
            mebibytes(row["resident_bytes"]),
            valid,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _verdicts(result: Mapping[str, Any]) -> str:
    bars = judged(result)
    if not bars:
        return ""
    head = ["| engine | against | users | ratio | of each round | bar | |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*head, *(_verdict(bar) for bar in bars)])


def _verdict(bar: Bar) -> str:
    bound = f"{bar.least}x" if bar.better is None else f"{bar.least}x, better {bar.better}x"
    rounds = ", ".join(f"{ratio:.2f}" for ratio in bar.ratios)
    return f"| {bar.engine} | {bar.against} | {bar.users} | {bar.ratio:.2f}x | {rounds} | {bound} | {bar.verdict} |"


def _tuning(result: Mapping[str, Any]) -> str:
    """What each engine was set to, as it was given and as the engine tells it."""
    lines = ["| engine | environment | settings and options given | threads that it tells |", "|---|---|---|---|"]
    for label, tuned in result["tuning"].items():
        row = next((row for row in result["rows"] if row["label"] == label), None)
        if row is None:
            continue
        environment = " ".join(f"{name}={value}" for name, value in tuned["environment"].items()) or "-"
        given = ", ".join(f"{name}={value}" for name, value in row["configured_settings"].items())
        threads = row["effective_settings"].get("num_threads", "-")
        lines.append(f"| {label} | {environment} | {given} | {threads} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
