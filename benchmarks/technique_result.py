"""The result file of benchmarks/techniques.py: a run of some groups keeps the others, each with its own stamp."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from technique_claims import CLAIMS, Claim, Groups

from enginebay.errors import LoadTestError

STAMP = ("created_at", "revision", "environment")
FINE, BAR_MISSED, NO_FIGURE = 0, 1, 3


def kept_groups(
    path: Path, *, known: Sequence[str], measured_anew: Collection[str], is_quick: bool
) -> dict[str, dict[str, Any]]:
    """What the file has of groups that are known and not measured anew; nothing where there is no file.

    Raises LoadTestError where smoke tests and measurements would stand in one file, and where it cannot be read.
    """
    if not path.exists():
        return {}
    before = _read(path)
    is_replaced = set(known) <= set(measured_anew)
    if before["is_quick"] != is_quick and (is_quick or not is_replaced):
        have, come = ("smoke tests", "measurements") if before["is_quick"] else ("measurements", "smoke tests")
        raise LoadTestError(f"{path} has {have}, and {come} do not go beside them or over them; use another --out")
    return {
        name: {key: before.get(key) for key in STAMP} | group
        for name, group in before["groups"].items()
        if name in known and name not in measured_anew
    }


def in_order(groups: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    return {name: groups[name] for name in known if name in groups}


def bars_of(names: Collection[str]) -> list[Claim]:
    """What this project wants of these groups."""
    return [claim for claim in CLAIMS if claim.is_ours and claim.technique in names]


def bar_line(bar: Claim, groups: Groups) -> str:
    return f"{bar.technique}: {bar.says}: {bar.verdict(groups).replace('**', '')}"


def exit_status(groups: Groups, names: Collection[str], *, is_quick: bool) -> int:
    """Of a run of these groups. A smoke test is held to no bar."""
    bars = [] if is_quick else [bar.is_met(groups) for bar in bars_of(names)]
    if any(groups[name]["failures"] for name in names) or None in bars:
        return NO_FIGURE
    return FINE if all(bars) else BAR_MISSED


def _read(path: Path) -> dict[str, Any]:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadTestError(f"{path} is no result to keep groups of: {error}; remove it or name another") from error
    if not isinstance(before, dict) or not {"is_quick", "groups"} <= before.keys():
        raise LoadTestError(f"{path} is not a result of this benchmark; remove it or name another with --out")
    return before
