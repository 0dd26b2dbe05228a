"""The table of docs/comparison.md out of the result that is kept.

enginebay bench configs/cpu-comparison.yaml --backend reference --backend vllm --backend openvino --out OUT
python benchmarks/comparison_page.py OUT     # keeps the result and writes the page
python benchmarks/comparison_page.py         # writes the page out of the kept result
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from page_section import with_section

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "results" / "cpu_comparison.json"
PAGE = ROOT / "docs" / "comparison.md"
BEGIN, END = "<!-- figures: written by benchmarks/comparison_page.py -->", "<!-- end of figures -->"
BASE = "vllm"
"""The engine that the ratios are against."""


def main() -> int:
    if len(sys.argv) > 1:
        shutil.copy(Path(sys.argv[1]) / "result.json", KEPT)
    PAGE.write_text(with_figures(PAGE.read_text(), figures(json.loads(KEPT.read_text()))))
    return 0


def figures(result: dict[str, Any]) -> str:
    """Markdown: where and when, then one row for each engine and load."""
    environment = result["environment"]
    versions = ", ".join(f"{run['label']} {run['engine_version']}" for run in _first_runs(result))
    head = [
        f"Measured {result['created_at'][:10]} on {environment['cpu']}, {environment['num_cores']} cores, "
        f"{environment['memory_bytes'] / 2**30:.0f} GiB. Plan `{result['plan_sha256'][:12]}`. Versions: {versions}.",
        "",
        f"| users | engine | output tokens/s | against {BASE} | TTFT p50 | TPOT p50 | latency p95 | valid |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(_row(run, result) for run in _by_load(result))])


def with_figures(page: str, text: str) -> str:
    return with_section(page, text, begin=BEGIN, end=END)


def _first_runs(result: dict[str, Any]) -> list[dict[str, Any]]:
    return list({run["label"]: run for run in reversed(result["runs"])}.values())[::-1]


def _by_load(result: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(result["runs"], key=lambda run: run["load"]["users"])


def _row(run: dict[str, Any], result: dict[str, Any]) -> str:
    metrics = run["metrics"]
    speed = metrics["output_tokens_per_s"]
    same_load = [other for other in result["runs"] if other["load"] == run["load"] and other["label"] == BASE]
    ratio = speed / same_load[0]["metrics"]["output_tokens_per_s"]
    valid = "yes" if run["valid"] else "**no**: " + ", ".join(reason["code"] for reason in run["invalid_reasons"])
    cells = [
        str(run["load"]["users"]),
        run["label"],
        f"{speed:.1f}",
        f"{ratio:.2f}x",
        f"{metrics['ttft_s']['p50'] * 1000:.0f} ms",
        f"{metrics['tpot_s']['p50'] * 1000:.1f} ms",
        f"{metrics['e2e_s']['p95']:.2f} s",
        valid,
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
