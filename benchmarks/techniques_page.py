"""docs/techniques.md and its plot, out of the results that are kept; where there is none, the page says so.

python benchmarks/techniques_page.py             # writes them
python benchmarks/techniques_page.py --check     # exit code 1 where the page says something else than the result
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine_tables import ENGINE_TABLES
from technique_tables import NOT_MEASURED, technique_block
from techniques_plot import plot

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "results" / "techniques.json"
PAGE = ROOT / "docs" / "techniques.md"
PLOT = ROOT / "docs" / "assets" / "techniques.svg"
BLOCK = re.compile(r"<!-- figures: (?P<name>\w+) -->\n.*?<!-- end of figures -->", re.DOTALL)


def main() -> int:
    result = kept_result()
    page = PAGE.read_text(encoding="utf-8")
    written = with_figures(page, result)
    drawn = plot(result) if result else None
    if "--check" in sys.argv:
        is_same = written == page and drawn == (PLOT.read_text(encoding="utf-8") if PLOT.exists() else None)
        if not is_same:
            print("docs/techniques.md does not say what the result says: run benchmarks/techniques_page.py")
        return 0 if is_same else 1
    PAGE.write_text(written, encoding="utf-8")
    if drawn is not None:
        PLOT.write_text(drawn, encoding="utf-8")
    return 0


def kept_result() -> dict[str, Any]:
    """Empty before anything was measured."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}


def with_figures(page: str, result: Mapping[str, Any]) -> str:
    def block(found: re.Match[str]) -> str:
        name = found["name"]
        text = engine_table(name) if name in ENGINE_TABLES else technique_block(name, result)
        if name == "head":
            text = head(result)
        return f"<!-- figures: {name} -->\n{text}\n<!-- end of figures -->"

    return BLOCK.sub(block, page)


def engine_table(name: str) -> str:
    """Out of a result file of its own."""
    path = KEPT.with_name(f"{name}.json")
    return ENGINE_TABLES[name](json.loads(path.read_text(encoding="utf-8"))) if path.exists() else NOT_MEASURED


def head(result: Mapping[str, Any]) -> str:
    if not result:
        return NOT_MEASURED
    environment = result["environment"]
    kind = "A smoke test, not a measurement: " if result["is_quick"] else ""
    starts = [row["num_starts"] for group in result["groups"].values() for row in group["rows"] if "num_starts" in row]
    return "\n".join(
        [
            f"{kind}Measured {result['created_at'][:10]} on {environment['cpu']}, {environment['num_cores']} cores, "
            f"{environment['memory_bytes'] / 2**30:.0f} GiB, torch {environment['packages'].get('torch')}. "
            f"Medians of {min(starts, default=1)} starts of each engine, interleaved. The price is that of the tokens "
            f"alone, at an assumed {result['price_per_hour']:.2f} an hour for the whole machine.",
            "",
            "![Output tokens per second by technique](assets/techniques.svg)",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
