"""The ledger in the database, and how entries come into it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter

import sqlalchemy as sa

from enginebay.gateway.database import Database, metadata
from enginebay.gateway.ledger.entry import Entry
from enginebay.gateway.ledger.segments import PlacedEntry

DAY_S = 86_400

ledger = sa.Table(
    "ledger",
    metadata,
    # where it stood in the journal: an entry that is read twice is stored once
    sa.Column("segment", sa.String(64), primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("request_id", sa.Text, nullable=False, index=True),
    sa.Column("arrived_at_unix", sa.Double, nullable=False, index=True),
    sa.Column("day", sa.Date, nullable=False),  # of its arrival, in UTC
    sa.Column("duration_s", sa.Double, nullable=False),
    sa.Column("ttft_s", sa.Double),
    sa.Column("key_id", sa.String(32)),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("replica", sa.Text, nullable=False),
    sa.Column("num_choices", sa.Integer, nullable=False),
    sa.Column("num_attempts", sa.Integer, nullable=False),
    sa.Column("resumed", sa.String(16)),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("error_code", sa.Text),
    sa.Column("num_prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("num_cached_tokens", sa.BigInteger),
    sa.Column("num_output_tokens", sa.BigInteger, nullable=False),
    sa.Column("num_unbilled_tokens", sa.BigInteger),
    sa.Column("cost_nano", sa.BigInteger),
    sa.Column("currency", sa.Text),
)


NUM_ROWS_AT_ONCE = 25
"""Rows that are made ready without a break: well below a millisecond, in which the event loop may stand still."""
_FIELDS = Entry.__struct_fields__
_fields_of = attrgetter(*_FIELDS)
_PLACEHOLDERS = {"sqlite": "?", "postgresql": "%s"}
"""Of the drivers, which get plain tuples: in half the time of a construct of SQLAlchemy with a dict for each row."""


def store(database: Database, entries: Sequence[PlacedEntry]) -> None:
    """In one transaction; those that are there already are left as they are. Raises StoreUnavailable."""
    statement = _insert_statement(_PLACEHOLDERS[database.dialect])
    with database.writing() as connection:
        for start in range(0, len(entries), NUM_ROWS_AT_ONCE):
            rows = [_row(placed) for placed in entries[start : start + NUM_ROWS_AT_ONCE]]
            connection.exec_driver_sql(statement, rows)
            time.sleep(0)  # gives the interpreter's lock away: the event loop may be waiting for it


def _insert_statement(placeholder: str) -> str:
    names = ("segment", "position", "day", *_FIELDS)
    return (
        f"INSERT INTO {ledger.name} ({', '.join(names)}) VALUES ({', '.join([placeholder] * len(names))}) "
        "ON CONFLICT (segment, position) DO NOTHING"
    )


def _row(placed: PlacedEntry) -> tuple[object, ...]:
    entry = placed.entry
    return (placed.segment, placed.position, _iso_day(entry.arrived_at_unix // DAY_S), *_fields_of(entry))


@lru_cache(maxsize=32)
def _iso_day(num_days: float) -> str:
    """num_days: since the first of January 1970, in UTC."""
    return datetime.fromtimestamp(num_days * DAY_S, UTC).date().isoformat()
