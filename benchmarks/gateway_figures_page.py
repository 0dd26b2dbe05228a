"""The figures of docs/gateway-figures.md that come from disconnects and memory, out of the results that are kept.

python benchmarks/gateway_figures_page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from page_section import with_section

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "gateway-figures.md"
MOMENTS = {"after_first_token": "after the first token", "before_first_byte": "before the first byte"}


def main() -> None:
    PAGE.write_text(with_figures(PAGE.read_text()))


def with_figures(page: str) -> str:
    report = kept("gateway_disconnect")
    page = _section(page, "disconnects", chain(disconnects(report), busy(report)))
    return _section(page, "memory", memory(kept("gateway_memory")))


def kept(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _section(page: str, name: str, lines: Iterator[str]) -> str:
    """Each section has an end of its own, so that other figures of the page are others' to write."""
    begin, end = f"<!-- {name}: written by benchmarks/gateway_figures_page.py -->", f"<!-- end of {name} -->"
    assert begin in page, f"{PAGE.name} has no place for {name}"
    assert end in page, f"{PAGE.name} has no end of {name}"
    return with_section(page, "\n".join(lines), begin=begin, end=end)


def disconnects(report: dict[str, Any]) -> Iterator[str]:
    yield "| engine | the client leaves | slots | p50 | p99 | longest | resolution | never freed |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    for kind, result in report["backends"].items():
        engine = f"`{kind}`, {result['what']}"
        version = result["engine_version"]
        label = engine if version is None or result["simulated"] else f"{engine} {version}"
        for moment, words in MOMENTS.items():
            figures = result[moment]
            yield (
                f"| {label} | {words} | {figures['num_samples']} | {_ms(figures['freed_p50_s'])} "
                f"| {_ms(figures['freed_p99_s'])} | {_ms(figures['freed_max_s'])} "
                f"| {_ms(figures['resolution_p50_s'])} | {figures['num_never_freed']} |"
            )


def busy(report: dict[str, Any]) -> Iterator[str]:
    """How much else ran: such figures are worse for it."""
    machines = [result["machine"] for result in report["backends"].values()]
    loads = [machine["load_average_before"] for machine in machines]
    num_cores = machines[0]["environment"]["num_cores"]
    yield ""
    yield f"Before each engine the load average of the {num_cores} cores was {min(loads):.1f} to {max(loads):.1f}."


def memory(report: dict[str, Any]) -> Iterator[str]:
    bars = {bar["name"]: bar for bar in report["bars"]}
    idle, rise = bars["resident when idle, MB"], bars["rise after the warm-up, MB"]
    last_bytes = [*report["resident_bytes_by_num_requests"].values()][-1]
    yield "| resident memory with everything on (simulated engine) | measured | bar |"
    yield "|---|---:|---:|"
    yield f"| idle | {idle['measured']:.1f} MB | {idle['limit']:g} MB |"
    yield (
        f"| rise from request {report['warm_after_requests']:,} to request {report['num_requests']:,} "
        f"| {rise['measured']:.1f} MB | {rise['limit']:g} MB |"
    )
    yield f"| at the end | {last_bytes / 1e6:.1f} MB | |"


def _ms(duration_s: float | None) -> str:
    return "-" if duration_s is None else f"{duration_s * 1000:.1f} ms"


if __name__ == "__main__":
    main()
