"""Sums over the ledger, on each database."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from enginebay.errors import ConfigError
from enginebay.gateway.access.tables import api_keys
from enginebay.gateway.database import open_database
from enginebay.gateway.ledger.costs import CostRow, Sums, costs, group_columns, parse_dimensions
from enginebay.gateway.ledger.entry import Entry
from enginebay.gateway.ledger.segments import PlacedEntry
from enginebay.gateway.ledger.tables import ledger, store

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
DAY_S = 86400.0


def placed(position: int, **fields) -> PlacedEntry:
    defaults = {
        "request_id": f"r{position}",
        "arrived_at_unix": NOON,
        "duration_s": 1.0,
        "model": "assistant",
        "key_id": "a",
        "outcome": "finished",
        "num_prompt_tokens": 10,
        "num_output_tokens": 5,
        "cost_nano": 1_000_000_001,
        "currency": "EUR",
    }
    return PlacedEntry("segment", position, Entry(**(defaults | fields)))


ENTRIES = [
    placed(0),
    placed(1, num_cached_tokens=4, num_unbilled_tokens=2, outcome="cancelled"),
    placed(2, key_id="b", arrived_at_unix=NOON + DAY_S, version="v2"),
    placed(3, key_id=None, model="draft", cost_nano=None, currency=None, outcome="failed", num_output_tokens=0),
    placed(4, key_id="b", outcome="refused", cost_nano=0, num_prompt_tokens=0, num_output_tokens=0),
]


@pytest.fixture
def database(database_url):
    with closing(open_database(database_url)) as database:
        store(database, ENTRIES)
        with database.writing() as connection:
            key = {"key_id": "a", "name": "Ada", "scopes": [], "tier": "", "created_at_unix": 0.0}
            connection.execute(api_keys.insert(), [key])
        yield database


def sums(**fields) -> Sums:
    return Sums(**(dict.fromkeys(Sums.__slots__, 0) | fields))


def test_costs_are_summed_by_key_and_model(database) -> None:
    assert costs(database, by=("key", "model")) == sorted(
        [
            CostRow(
                ("a", "Ada", "assistant"),
                "EUR",
                sums(
                    num_calls=2,
                    num_finished=1,
                    num_cancelled=1,
                    num_prompt_tokens=20,
                    num_cached_tokens=4,
                    num_output_tokens=10,
                    num_unbilled_tokens=2,
                    cost_nano=2_000_000_002,
                ),
            ),
            CostRow(
                ("b", "", "assistant"),
                "EUR",
                sums(
                    num_calls=2,
                    num_finished=1,
                    num_refused=1,
                    num_prompt_tokens=10,
                    num_output_tokens=5,
                    cost_nano=1_000_000_001,
                ),
            ),
            CostRow(("", "", "draft"), "", sums(num_calls=1, num_failed=1, num_prompt_tokens=10, num_unpriced=1)),
        ],
        key=lambda row: row.group,
    )


def test_costs_of_a_period_are_those_of_calls_that_arrived_in_it(database) -> None:
    def num_calls(**period: float) -> int:
        return sum(row.sums.num_calls for row in costs(database, by=("model",), **period))

    assert num_calls() == 5
    assert num_calls(since_unix=NOON + 1) == 1
    assert num_calls(since_unix=NOON) == 5
    assert num_calls(until_unix=NOON) == 0
    assert num_calls(since_unix=NOON, until_unix=NOON + DAY_S) == 4


def test_days_and_versions_are_groups_too(database) -> None:
    found = [(row.group, row.sums.num_calls) for row in costs(database, by=("day", "version")) if row.currency]
    assert found == [(("2026-11-21", ""), 3), (("2026-11-22", "v2"), 1)]


def test_amounts_of_two_currencies_are_never_added(database) -> None:
    store(database, [placed(9, currency="USD", cost_nano=7)])
    found = {row.currency: row.sums.cost_nano for row in costs(database, by=("model",)) if row.group == ("assistant",)}
    assert found == {"EUR": 3_000_000_003, "USD": 7}


def test_storing_again_changes_nothing(database) -> None:
    before = costs(database, by=("key",))
    store(database, ENTRIES)
    assert costs(database, by=("key",)) == before


def test_numbers_as_large_as_they_come_are_stored_and_summed(database) -> None:
    huge = 2**62
    store(database, [placed(20, model="huge", num_prompt_tokens=huge, num_output_tokens=2**40, cost_nano=huge)])
    [row] = [row for row in costs(database, by=("model",)) if row.group == ("huge",)]
    assert (row.sums.num_prompt_tokens, row.sums.cost_nano) == (huge, huge)


def test_an_entry_comes_out_of_the_database_as_it_went_in(database) -> None:
    with database.reading() as connection:
        rows = connection.execute(sa.select(ledger).order_by(ledger.c.position)).mappings().all()
    for row, placed_entry in zip(rows, ENTRIES, strict=True):
        entry = placed_entry.entry
        assert {name: row[name] for name in Entry.__struct_fields__} == {
            name: getattr(entry, name) for name in Entry.__struct_fields__
        }
        assert row["day"] == datetime.fromtimestamp(entry.arrived_at_unix, UTC).date()


@pytest.mark.parametrize("text", ["", "color", "key,key", "key,colour"])
def test_groups_that_do_not_exist_are_refused_with_those_that_do(text) -> None:
    with pytest.raises(ConfigError, match="some of key, model, version, replica, day, outcome"):
        parse_dimensions(text)


def test_a_key_is_shown_by_id_and_name() -> None:
    assert group_columns(parse_dimensions("day, key")) == ["day", "key", "key_name"]
