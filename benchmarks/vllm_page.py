"""The figures of docs/vllm-against-reference.md out of the comparison that is kept beside it.

python benchmarks/vllm_page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "reports" / "vllm-against-reference"
PAGE = ROOT / "docs" / "vllm-against-reference.md"
BEGIN, END = "<!-- figures: written by benchmarks/vllm_page.py -->", "<!-- end of figures -->"
TITLES = {
    "output_tokens_per_s": ("output tokens/s", 1, "{:,.0f}"),
    "ttft_scheduled_s.p50": ("first token, median", 1000, "{:,.0f} ms"),
    "tpot_s.p50": ("further token, median", 1000, "{:.1f} ms"),
    "e2e_s.p50": ("answer, median", 1, "{:.2f} s"),
    "goodput_rps": ("good requests/s", 1, "{:.2f}"),
}


def main() -> None:
    PAGE.write_text(with_figures(PAGE.read_text(), figures(kept("verdict"), kept("certificate"), kept("result"))))


def kept(name: str) -> dict[str, Any]:
    return json.loads((KEPT / f"{name}.json").read_text())


def with_figures(page: str, text: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def figures(verdict: dict[str, Any], certificate: dict[str, Any], result: dict[str, Any]) -> str:
    return "\n".join([*_conditions(result), "", *_table(verdict), "", *_outputs(verdict), "", *_sameness(certificate)])


def _conditions(result: dict[str, Any]) -> Iterator[str]:
    machine = result["environment"]
    runs = result["runs"]
    num_starts = len({run["start_index"] for run in runs})
    num_valid = sum(run["valid"] for run in runs)
    yield (
        f"{machine['cpu']}, {machine['num_cores']} cores. {num_starts} starts of each engine; {num_valid} of "
        f"{len(runs)} runs are valid. Plan `{result['plan_sha256'][:12]}`."
    )


def _table(verdict: dict[str, Any]) -> Iterator[str]:
    first, second = verdict["subjects"]
    yield f"| users | | {first} | {second} | ratio | interval | {second} is |"
    yield "|---:|---|---:|---:|---:|---:|---|"
    for load in verdict["loads"]:
        for metric in load["metrics"]:
            if metric["metric"] in TITLES:
                yield _row(load["load"]["users"], metric)


def _row(users: int, metric: dict[str, Any]) -> str:
    title, factor, form = TITLES[metric["metric"]]
    values = [metric[side] for side in ("first_value", "second_value")]
    cells = ["–" if value is None else form.format(value * factor) for value in values]
    interval, ratio = metric["interval"], metric["ratio"]
    cells.append("–" if ratio is None else f"{ratio:.2f}x")
    cells.append("–" if interval is None else f"{interval['low']:.2f} to {interval['high']:.2f}")
    return f"| {users} | {title} | {' | '.join(cells)} | **{metric['outcome']}** |"


def _outputs(verdict: dict[str, Any]) -> Iterator[str]:
    compared = [output for output in verdict["outputs"] if not output["not_compared"]]
    parts = sum(output["num_prompts_that_part"] for output in compared)
    agreeing = sum(output["num_agreeing_units"] for output in compared) / sum(o["num_units"] for o in compared)
    yield (
        f"Greedy outputs: {parts} of {sum(output['num_prompts'] for output in compared)} answers part somewhere; "
        f"{agreeing:.0%} of the tokens agree up to there. [Equality of outputs](equality.md) tells why 16 bits do that."
    )


def _sameness(certificate: dict[str, Any]) -> Iterator[str]:
    words = "the same load for both" if certificate["is_identical"] else "**not** the same load for both"
    yield f"The certificate of {len(certificate['runs'])} runs says: {words}."


if __name__ == "__main__":
    main()
