"""The figures of docs/gateway-figures.md, out of the results that are kept; what has none is left as it is.

python benchmarks/gateway_figures_page.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from gateway_rates_page import requests, sustained
from gateway_streams_page import streams
from page_section import with_section

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "gateway-figures.md"
MOMENTS = {"after_first_token": "after the first token", "before_first_byte": "before the first byte"}


def main() -> None:
    PAGE.write_text(with_figures(PAGE.read_text()))


def with_figures(page: str, results: Path = RESULTS) -> str:
    """The page with the sections written anew whose results are in that folder."""
    for section, (name, lines) in SECTIONS.items():
        if (results / f"{name}.json").exists():
            page = _section(page, section, lines(kept(name, results)))
    return page


def kept(name: str, results: Path = RESULTS) -> dict[str, Any]:
    return json.loads((results / f"{name}.json").read_text())


def not_measured(results: Path = RESULTS) -> list[str]:
    """The commands whose results the page lacks."""
    names = [name for name, _ in SECTIONS.values()]
    return [f"python benchmarks/{name}.py" for name in names if not (results / f"{name}.json").exists()]


def _section(page: str, name: str, lines: Iterator[str]) -> str:
    """Each section has an end of its own, so that other figures of the page are others' to write."""
    begin, end = f"<!-- {name}: written by benchmarks/gateway_figures_page.py -->", f"<!-- end of {name} -->"
    assert begin in page, f"{PAGE.name} has no place for {name}"
    assert end in page, f"{PAGE.name} has no end of {name}"
    return with_section(page, "\n".join(lines), begin=begin, end=end)


def freed_slots(report: dict[str, Any]) -> Iterator[str]:
    return chain(disconnects(report), busy(report))


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


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], Iterator[str]]]] = {
    "requests": ("gateway", requests),
    "streams": ("gateway_streams", streams),
    "sustained": ("gateway_sustained", sustained),
    "disconnects": ("gateway_disconnect", freed_slots),
    "memory": ("gateway_memory", memory),
}
"""By the name of its comments: the result that it shows, and its lines."""


if __name__ == "__main__":
    main()
