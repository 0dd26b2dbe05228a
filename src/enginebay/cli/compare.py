"""`enginebay compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from enginebay.loadtest.result import load_result
from enginebay.report.comparison import paired_runs, print_comparison

NO_VERDICT = 3


def compare(
    first: Annotated[Path, Parameter(help="result.json of bench, or the folder that holds it.")],
    second: Annotated[Path, Parameter(help="What it is compared with.")],
    /,
) -> int:
    """Set two results of the same plan side by side.

    Ratios are shown, and every verdict is `undecided`: it would take the intervals of several starts.
    """
    results = load_result(first), load_result(second)
    pairs = paired_runs(*results)
    names = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    slo = results[0].slo
    has_levels = any(level is not None for level in (slo.ttft_s, slo.tpot_s, slo.e2e_s))
    print_comparison(pairs, Console(), names=names, has_levels=has_levels)
    return NO_VERDICT
