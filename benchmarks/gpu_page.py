"""What the pages about GPUs say of results, out of the result files: a banner where no GPU has run, else a table.

    python benchmarks/gpu_page.py           # writes the block into the pages
    python benchmarks/gpu_page.py --check   # exit code 1 where a page says something else

A run counts when it is complete and valid, was not simulated, its engine is one that computes on GPUs, and as many GPUs
as it was spread over held its weights when it ended. A GPU that merely is in the machine proves nothing. Put what
`gpu_comparison.py` packed under benchmarks/results/gpu/.
"""

from __future__ import annotations

import json
import sys
from math import prod
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu"
PAGES = (ROOT / "docs" / "gpu.md", ROOT / "docs" / "engines.md")
KINDS = ("vllm", "tgi", "tensorrt_llm", "sglang", "llama_cpp")
"""That we launch on this machine, and that compute on its GPUs."""
MIN_USED_BYTES = 2 * 2**30
"""More than a desktop takes of a GPU, less than the weights and the KV cache of a model worth a GPU."""
BEGIN, END = "<!-- gpu results: written by benchmarks/gpu_page.py -->", "<!-- end of gpu results -->"
BANNER = """!!! warning "No GPU has run this"
    Everything said about GPUs on this page was written against the engines' documented interfaces and checked as text.
    No result from a GPU is kept in this project yet. The first one that is replaces this banner by its figures."""


def main() -> int:
    block = gpu_block(RESULTS)
    differing = [page for page in PAGES if with_block(page.read_text(), block) != page.read_text()]
    if "--check" in sys.argv:
        for page in differing:
            print(f"{page.relative_to(ROOT)} does not say what the results say: run benchmarks/gpu_page.py")
        return 1 if differing else 0
    for page in differing:
        page.write_text(with_block(page.read_text(), block))
    return 0


def gpu_block(results: Path) -> str:
    """Markdown: one line for each run on a GPU, or the banner."""
    rows = [row for path in sorted(results.rglob("result.json")) for row in _rows(json.loads(path.read_text()))]
    if not rows:
        return BANNER
    head = ["| GPU | model | engine | load | output tokens/s | TTFT p50 |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def with_block(page: str, block: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def _rows(result: dict[str, Any]) -> list[str]:
    gpus = result["environment"].get("gpus", [])
    return [_row(result, run, gpus=gpus) for run in result["runs"] if gpus and _ran_on_gpus(run)]


def _ran_on_gpus(run: dict[str, Any]) -> bool:
    if run["simulated"] or not run["valid"] or run["status"] != "complete" or run["backend"] not in KINDS:
        return False
    num_in_use = sum(used >= MIN_USED_BYTES for used in run.get("gpu_memory_used_bytes", ()))
    return num_in_use >= _num_gpus(run)


def _num_gpus(run: dict[str, Any]) -> int:
    """That the model was spread over, as the engine tells it, else as it was configured."""
    names = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel")
    told = [run["effective_settings"].get(name) for name in names]
    asked = [run["configured_settings"].get(name) for name in names]
    return prod(one if isinstance(one, int) else other or 1 for one, other in zip(told, asked, strict=True))


def _row(result: dict[str, Any], run: dict[str, Any], *, gpus: list[str]) -> str:
    load = " ".join(f"{value} {name}" for name, value in run["load"].items())
    metrics = run["metrics"]
    ttft_s = metrics["ttft_s"]["p50"] if metrics["ttft_s"] else None
    engine = f"{run['backend']} {run['engine_version'] or 'unknown'}"
    shown = "-" if ttft_s is None else f"{ttft_s:.3f} s"
    speed = metrics["output_tokens_per_s"]
    return f"| {_num_gpus(run)} x {gpus[0]} | {result['model']} | {engine} | {load} | {speed:.0f} | {shown} |"


if __name__ == "__main__":
    sys.exit(main())
