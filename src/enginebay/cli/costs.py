"""`enginebay costs`: what calls used and cost, from the gateway's ledger."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from enginebay.config.loader import load_config
from enginebay.errors import ConfigError
from enginebay.gateway.database import open_database
from enginebay.gateway.ledger.costs import (
    DIMENSIONS,
    SUM_NAMES,
    CostRow,
    costs,
    group_columns,
    parse_dimensions,
)
from enginebay.gateway.ledger.prices import money

_SHOWN = {
    "num_calls": "calls",
    "num_cancelled": "cancelled",
    "num_refused": "refused",
    "num_failed": "failed",
    "num_prompt_tokens": "prompt",
    "num_cached_tokens": "cached",
    "num_output_tokens": "output",
    "num_unbilled_tokens": "unbilled",
}
"""Columns of the table; the CSV has all sums under their own names."""


def show_costs(
    config: Annotated[Path | None, Parameter(help="Config of the gateway, which names its database.")] = None,
    /,
    *,
    database: Annotated[
        str | None, Parameter(help="Instead of a config: sqlite:///FILE or postgresql://user:password@host/name.")
    ] = None,
    by: Annotated[str, Parameter(help=f"Groups, with commas: {', '.join(DIMENSIONS)}.")] = "key,model",
    since: Annotated[str | None, Parameter(help="First day (2026-11-01, UTC), or an instant in ISO 8601.")] = None,
    until: Annotated[str | None, Parameter(help="Last day, or the instant before which calls arrived.")] = None,
    as_csv: Annotated[bool, Parameter(name="--csv", help="Print CSV instead of a table.", negative="")] = False,
) -> None:
    """Show what calls used and cost. What a gateway has just answered is there within a second."""
    dimensions = parse_dimensions(by)
    since_unix, until_unix = _instant(since, "--since"), _instant(until, "--until", is_end=True)
    with closing(open_database(_database_url(config, database), must_exist=True)) as opened:
        rows = costs(opened, by=dimensions, since_unix=since_unix, until_unix=until_unix)
    if as_csv:
        _print_csv(rows, dimensions)
    else:
        Console(markup=False, highlight=False).print(_table(rows, dimensions))


def _database_url(config: Path | None, database: str | None) -> str:
    if (config is None) == (database is None):
        raise ConfigError("which database?", expected="either a config, or --database with a URL")
    if database is not None:
        return database
    assert config is not None
    gateway = load_config(config).gateway
    if gateway is None or gateway.ledger is None:
        raise ConfigError("the config has no `gateway:` with a ledger", file=str(config), expected="gateway.ledger")
    return str(gateway.database)


def _instant(text: str | None, option: str, *, is_end: bool = False) -> float | None:
    """Unix seconds; of a day its beginning, or where it is the end of a period its end. Without an offset it is UTC."""
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is no date", expected="2026-11-01 or 2026-11-01T12:00:00Z") from error
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    is_day = len(text) <= len("2026-11-01")
    return (instant + timedelta(days=1) if is_day and is_end else instant).timestamp()


def _print_csv(rows: Sequence[CostRow], by: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    sums = [name for name in SUM_NAMES if name != "cost_nano"]
    writer.writerow([*group_columns(by), *sums, "cost", "currency"])
    for row in rows:
        writer.writerow([*row.group, *(getattr(row.sums, name) for name in sums), _cost(row), row.currency])


def _table(rows: Sequence[CostRow], by: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, caption=_caption(rows), caption_justify="left")
    for heading in group_columns(by):
        table.add_column(heading, overflow="fold")
    for heading in (*_SHOWN.values(), "cost"):
        table.add_column(heading, justify="right")
    for row in rows:
        sums = [f"{getattr(row.sums, name):,}" for name in _SHOWN]
        table.add_row(
            *(value or "-" for value in row.group), *sums, f"{_cost(row)} {row.currency}".strip() or "unknown"
        )
    return table


def _cost(row: CostRow) -> str:
    """In plain decimals, all of them; empty where it is unknown."""
    if not row.currency:
        return ""
    amount = f"{money(row.sums.cost_nano):f}"
    return amount.rstrip("0").rstrip(".") if "." in amount else amount


def _caption(rows: Sequence[CostRow]) -> str | None:
    num_unpriced = sum(row.sums.num_unpriced for row in rows)
    return f"{num_unpriced:,} calls of models without a price have no cost" if num_unpriced else None
