"""Results of benchmarks/techniques.py as Markdown tables, one for each technique."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from technique_claims import CLAIMS, Row

NOT_MEASURED = "*not measured yet*"
MEBI = 2**20


def technique_block(name: str, result: Mapping[str, Any]) -> str:
    """Table and verdicts, or that there are none yet."""
    group = result.get("groups", {}).get(name)
    if group is None or not (group["rows"] or group["failures"]):
        return NOT_MEASURED
    lines = [*kept_line(group, result), *([f"Load: {group['workload']}.", ""] if group.get("workload") else [])]
    if group["rows"]:
        lines += (speculation_lines if name == "speculation" else load_table)(group["rows"])
    lines += [f"- **failed**: {failure['label'] or 'the group'}: {failure['error']}" for failure in group["failures"]]
    verdicts = verdict_lines(name, result["groups"])
    return "\n".join([*lines, *(["", *verdicts] if verdicts else [])])


def kept_line(group: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Where and when, of a group that was not in the run that the page is headed by."""
    if (created_at := group.get("created_at")) in (None, result.get("created_at")):
        return []
    environment = group["environment"]
    commit = f", at commit {group['revision']}" if group["revision"] else ""
    when = created_at[:16].replace("T", " ")
    torch = environment["packages"].get("torch")
    return [f"In a run of its own: measured {when} on {environment['cpu']}, torch {torch}{commit}.", ""]


def load_table(rows: Sequence[Row]) -> list[str]:
    head = [
        "| | users | output tokens/s (least to most) | TTFT p50 | TTFT p99 | TPOT p50 | weights | KV cache | process "
        "| price per million tokens | valid |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    by_load = sorted(rows, key=lambda row: row["users"])
    return [*head, *(_line(*_load_cells(row)) for row in by_load)]


def _load_cells(row: Row) -> tuple[str, ...]:
    return (
        row["label"],
        str(row["users"]),
        spread(row["output_tokens_per_s"]),
        milliseconds(row["ttft_p50_s"]),
        milliseconds(row["ttft_p99_s"]),
        milliseconds(row["tpot_p50_s"]),
        mebibytes(row["weight_bytes"]),
        mebibytes(row["kv_cache_bytes"]),
        mebibytes(row["resident_bytes"]),
        price(row["price_per_million_tokens"]),
        "yes" if row["is_valid"] else "**no**: " + "; ".join(row["invalid_reasons"]),
    )


def speculation_lines(rows: Sequence[Row]) -> list[str]:
    """How many prompts there were and which are left out, then the table."""
    kinds = dict.fromkeys(row["prompts"] for row in rows)
    firsts = [next(row for row in rows if row["prompts"] == kind) for kind in kinds]
    told = [f"{_num_asked(row)} {row['prompts']} prompts ({_left_out(row)})" for row in firsts]
    return [f"Asked were {' and '.join(told)}.", "", *speculation_table(rows)]


def _num_asked(row: Row) -> int:
    return row["num_pairs"] + len(row["looping_prompts"])


def _left_out(row: Row) -> str:
    names = row["looping_prompts"]
    return f"left out, since the answer loops: {', '.join(names)}" if names else "the answer to none loops"


def speculation_table(rows: Sequence[Row]) -> list[str]:
    head = [
        "| prompts | | output tokens/s (least to most) | against none, median of pairs | pairs | accepted "
        "| tokens per step | "
        "same answers | TPOT p50 | weights | process | price per million tokens |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return [*head, *(_line(*_speculation_cells(row)) for row in rows)]


def _speculation_cells(row: Row) -> tuple[str, ...]:
    differing = row["differing_prompts"]
    settings = row["effective_settings"]
    return (
        row["prompts"],
        row["label"],
        spread(row["output_tokens_per_s"]),
        "-" if row["ratio"] is None else f"{row['ratio']['median']:.2f}x",
        str(row["num_pairs"]),
        "-" if row["acceptance_ratio"] is None else f"{row['acceptance_ratio']:.0%}",
        f"{row['tokens_per_step']:.2f}",
        "all" if not differing else f"**{len(differing)} differ**",
        milliseconds(row["tpot_p50_s"]),
        mebibytes(settings.get("weight_bytes")),
        mebibytes(row["resident_bytes"]),
        price(row["price_per_million_tokens"]),
    )


def verdict_lines(name: str, groups: Mapping[str, Any]) -> list[str]:
    """The lesson's claims, then what this project wants."""
    claims = sorted((claim for claim in CLAIMS if claim.technique == name), key=lambda claim: claim.is_ours)
    if not claims:
        return []
    head = ["| who | says | counted as holding from | here |", "|---|---|---|---|"]
    return [
        *head,
        *(
            _line(
                "this project wants" if claim.is_ours else "the lesson", claim.says, claim.bound, claim.verdict(groups)
            )
            for claim in claims
        ),
    ]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def spread(values: Mapping[str, float] | None) -> str:
    if values is None:
        return "-"
    return f"{values['median']:.1f} ({values['min']:.1f} to {values['max']:.1f})"


def milliseconds(value_s: float | None) -> str:
    if value_s is None:
        return "-"
    return f"{value_s:.2f} s" if value_s >= 1 else f"{value_s * 1000:.{1 if value_s < 0.1 else 0}f} ms"


def mebibytes(num_bytes: int | None) -> str:
    return "-" if not num_bytes else f"{num_bytes / MEBI:,.0f} MiB"


def price(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
