"""The figures of docs/client.md out of the results that are kept.

python benchmarks/client_page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "client.md"
BEGIN, END = "<!-- figures: written by benchmarks/client_page.py -->", "<!-- end of figures -->"


def main() -> None:
    PAGE.write_text(with_figures(PAGE.read_text(), figures(kept("client_accuracy"), kept("client_ceiling"))))


def kept(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def with_figures(page: str, text: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def figures(accuracy: dict[str, Any], ceiling: dict[str, Any]) -> str:
    return "\n".join([*_errors(accuracy), "", *_ceilings(ceiling)])


def _errors(report: dict[str, Any]) -> Iterator[str]:
    ttft, counts, bars = report["ttft"], report["token_counts"], report["bars"]
    yield "| error against the oracle (simulated) | p50 | p99 | bar at p99 |"
    yield "|---|---:|---:|---:|"
    yield (
        f"| TTFT at {ttft['requests_per_s']:g} requests/s | {_ms(ttft['error_p50_s'])} | {_ms(ttft['error_p99_s'])} "
        f"| {_ms(bars['ttft_error_p99_s'])} |"
    )
    for run in report["offsets"]:
        yield (
            f"| sending instants at {run['requests_per_s']:g} requests/s | {_ms(run['error_p50_s'])} "
            f"| {_ms(run['error_p99_s'])} | {_ms(bars['offset_error_p99_s'])} |"
        )
    yield ""
    yield (
        f"Wrong token counts in {counts['num_requests']:,} answers with {counts['num_tokens']:,} tokens: "
        f"{counts['num_wrong']}."
    )


def _ceilings(report: dict[str, Any]) -> Iterator[str]:
    yield f"Requests a second, {report['what'].removeprefix('client ceilings: ')} (simulated):"
    yield ""
    yield "| the server's answer | ours | with all decoding | `vllm bench serve` | ratio | with decoding | server |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, case in report["cases"].items():
        yield (
            f"| {name} | {_rate(run['requests_per_s'] for run in case['ours'])} "
            f"| {_rate(run['requests_per_s_with_decoding'] for run in case['ours'])} "
            f"| {_rate(case['vllm_bench_requests_per_s'])} | {case['ratio']:.1f} | {case['ratio_with_decoding']:.2f} "
            f"| {_rate(case['server_requests_per_s'])} |"
        )


def _rate(values: Any) -> str:
    return f"{median(values):,.0f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


if __name__ == "__main__":
    main()
