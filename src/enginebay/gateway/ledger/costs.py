"""Sums over the ledger: by key, model, day and what else a call has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import sqlalchemy as sa

from enginebay.errors import ConfigError
from enginebay.gateway.access.tables import api_keys
from enginebay.gateway.database import Database
from enginebay.gateway.ledger.tables import ledger

DIMENSIONS: Mapping[str, Sequence[sa.ColumnElement[object]]] = {
    "key": (ledger.c.key_id, api_keys.c.name),
    "model": (ledger.c.model,),
    "version": (ledger.c.version,),
    "replica": (ledger.c.replica,),
    "day": (ledger.c.day,),
    "outcome": (ledger.c.outcome,),
}
"""What costs can be grouped by, and its columns: a key's are its id and its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Of the calls of one group."""

    num_calls: int
    num_finished: int
    num_cancelled: int
    num_refused: int
    num_failed: int
    num_prompt_tokens: int
    num_cached_tokens: int
    """Of the prompts', those known to come from the prefix cache."""
    num_output_tokens: int
    num_unbilled_tokens: int
    """Those that engines told of."""
    num_unpriced: int
    """Calls whose cost is unknown, since their model had no price."""
    cost_nano: int


@dataclass(frozen=True, slots=True)
class CostRow:
    group: tuple[str, ...]
    """As the columns of `group_columns`; empty where a call has none."""
    currency: str
    """Empty where nothing of the group has a price. Amounts of two currencies are never added."""
    sums: Sums


def parse_dimensions(text: str) -> tuple[str, ...]:
    """`key,model,day`. Raises ConfigError."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in DIMENSIONS]
    if unknown or not names or len(set(names)) < len(names):
        raise ConfigError(f"--by {text!r} cannot be used", expected=f"some of {', '.join(DIMENSIONS)}, with commas")
    return names


def group_columns(by: Sequence[str]) -> list[str]:
    """The headings of `CostRow.group`."""
    return [heading for name in by for heading in (("key", "key_name") if name == "key" else (name,))]


def costs(
    database: Database, *, by: Sequence[str], since_unix: float | None = None, until_unix: float | None = None
) -> list[CostRow]:
    """In the order of the groups. since_unix: arrivals from then on; until_unix: before then.

    Raises StoreUnavailable.
    """
    groups = [column for name in by for column in DIMENSIONS[name]]
    keys = [*groups, ledger.c.currency]
    order = [column.nulls_first() for column in keys]
    query = sa.select(*keys, *_SUMS.values()).select_from(_LEDGER_AND_KEYS).group_by(*keys).order_by(*order)
    with database.reading() as connection:
        rows = connection.execute(query.where(*_period(since_unix, until_unix))).all()
    return [_cost_row(tuple(row), len(groups)) for row in rows]


def _count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


def _sum(column: sa.Column[int]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(column), 0)


_LEDGER_AND_KEYS = ledger.outerjoin(api_keys, ledger.c.key_id == api_keys.c.key_id)
_SUMS: Mapping[str, sa.ColumnElement[int]] = {
    "num_calls": sa.func.count(),
    "num_finished": _count(ledger.c.outcome == "finished"),
    "num_cancelled": _count(ledger.c.outcome == "cancelled"),
    "num_refused": _count(ledger.c.outcome == "refused"),
    "num_failed": _count(ledger.c.outcome == "failed"),
    "num_prompt_tokens": _sum(ledger.c.num_prompt_tokens),
    "num_cached_tokens": _sum(ledger.c.num_cached_tokens),
    "num_output_tokens": _sum(ledger.c.num_output_tokens),
    "num_unbilled_tokens": _sum(ledger.c.num_unbilled_tokens),
    "num_unpriced": _count(ledger.c.cost_nano.is_(None)),
    "cost_nano": _sum(ledger.c.cost_nano),
}
SUM_NAMES = tuple(field.name for field in fields(Sums))


def _period(since_unix: float | None, until_unix: float | None) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if since_unix is not None:
        conditions.append(ledger.c.arrived_at_unix >= since_unix)
    if until_unix is not None:
        conditions.append(ledger.c.arrived_at_unix < until_unix)
    return conditions


def _cost_row(row: tuple[object, ...], num_group_columns: int) -> CostRow:
    group, currency = row[:num_group_columns], row[num_group_columns]
    amounts = [int(str(amount)) for amount in row[num_group_columns + 1 :]]  # PostgreSQL sums integers to decimals
    return CostRow(
        tuple("" if value is None else str(value) for value in group),
        "" if currency is None else str(currency),
        Sums(**dict(zip(_SUMS, amounts, strict=True))),
    )
