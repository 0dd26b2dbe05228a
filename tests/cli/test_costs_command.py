"""`enginebay costs`, as a user sees it."""

from __future__ import annotations

import csv
from contextlib import closing
from datetime import UTC, datetime

import pytest

from enginebay.cli.main import run
from enginebay.gateway.access.tables import api_keys
from enginebay.gateway.database import open_database
from enginebay.gateway.ledger.entry import Entry
from enginebay.gateway.ledger.segments import PlacedEntry
from enginebay.gateway.ledger.tables import store

CONFIG = """\
version: 1
gateway:
  database: sqlite:///{path}
  models: {{assistant: {{versions: {{v1: [{{backend: reference}}]}}}}}}
  ledger: {{prices: {{assistant: {{prompt: 0.5, output: 2}}}}}}
"""


def entry(request_id: str, day: int, *, cost_nano: int | None = 1_500, **fields) -> Entry:
    arrived_at = datetime(2026, 11, day, 23, 59, 59, tzinfo=UTC).timestamp()
    defaults = {
        "request_id": request_id,
        "arrived_at_unix": arrived_at,
        "duration_s": 1.0,
        "key_id": "a",
        "model": "assistant",
        "outcome": "finished",
        "num_prompt_tokens": 1000,
        "num_output_tokens": 500,
        "cost_nano": cost_nano,
        "currency": None if cost_nano is None else "EUR",
    }
    return Entry(**(defaults | fields))


@pytest.fixture
def url(tmp_path) -> str:
    url = f"sqlite:///{tmp_path}/gateway.db"
    entries = [entry("r1", 1), entry("r2", 2), entry("r3", 2, model="[red]draft", key_id=None, cost_nano=None)]
    with closing(open_database(url)) as database:
        store(database, [PlacedEntry("segment", place, one) for place, one in enumerate(entries)])
        with database.writing() as connection:
            key = {"key_id": "a", "name": "Ada", "scopes": [], "tier": "", "created_at_unix": 0.0}
            connection.execute(api_keys.insert(), [key])
    return url


def rows_of(capsys, *tokens: str) -> list[dict[str, str]]:
    assert run(["costs", "--csv", *tokens]) == 0
    return list(csv.DictReader(capsys.readouterr().out.splitlines()))


def test_the_table_shows_what_each_key_used_and_cost(url, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["costs", "--database", url]) == 0
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines()]
    assert lines[0][:6] == ["key", "key_name", "model", "calls", "cancelled", "refused"]
    assert lines[0][6:] == ["failed", "prompt", "cached", "output", "unbilled", "cost"]
    assert ["a", "Ada", "assistant", "2", "0", "0", "0", "2,000", "0", "1,000", "0", "0.000003", "EUR"] in lines
    assert ["-", "-", "[red]draft", "1", "0", "0", "0", "1,000", "0", "500", "0", "unknown"] in lines
    assert "1 calls of models without a price have no cost" in output


def test_the_csv_has_every_sum_and_the_cost_to_the_last_billionth(url, capsys) -> None:
    first, second, unpriced = rows_of(capsys, "--database", url, "--by", "day,model")
    assert first == {
        "day": "2026-11-01",
        "model": "assistant",
        "num_calls": "1",
        "num_finished": "1",
        "num_cancelled": "0",
        "num_refused": "0",
        "num_failed": "0",
        "num_prompt_tokens": "1000",
        "num_cached_tokens": "0",
        "num_output_tokens": "500",
        "num_unbilled_tokens": "0",
        "num_unpriced": "0",
        "cost": "0.0000015",
        "currency": "EUR",
    }
    assert {second["model"], unpriced["model"]} == {"assistant", "[red]draft"}
    assert [row["cost"] for row in (second, unpriced) if row["model"] == "[red]draft"] == [""]


@pytest.mark.parametrize(
    ("period", "num_calls"),
    [
        (["--since", "2026-11-02"], 2),
        (["--until", "2026-11-01"], 1),
        (["--since", "2026-11-01", "--until", "2026-11-02"], 3),
        (["--since", "2026-11-01T23:59:59", "--until", "2026-11-01T23:59:59"], 0),
        (["--since", "2026-11-02T00:59:59+01:00", "--until", "2026-11-02T01:00:00+01:00"], 1),
    ],
)
def test_days_are_whole_and_in_utc_and_instants_are_exact(url, capsys, period, num_calls) -> None:
    rows = rows_of(capsys, "--database", url, "--by", "model", *period)
    assert sum(int(row["num_calls"]) for row in rows) == num_calls


def test_a_config_says_where_the_database_is(tmp_path, url, capsys) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(CONFIG.format(path=tmp_path / "gateway.db"))
    assert rows_of(capsys, str(config), "--by", "day") == rows_of(capsys, "--database", url, "--by", "day")


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        ([], "which database"),
        (
            ["--database", "sqlite:///nowhere/to/be/found.db"],
            "nowhere/to/be/found.db; expected the database of a gateway",
        ),
        (["--database", "mysql://host/name"], "'mysql'"),
        (["--by", "colour"], "some of key, model"),
        (["--since", "yesterday"], "--since 'yesterday' is no date"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_to_write(url, capsys, tokens, problem) -> None:
    database = [] if not tokens or "--database" in tokens else ["--database", url]
    assert run(["costs", *tokens, *database]) == 2
    assert problem in capsys.readouterr().err


def test_a_config_without_a_gateway_has_no_costs(tmp_path, capsys) -> None:
    config = tmp_path / "thin.yaml"
    config.write_text("version: 1\n")
    assert run(["costs", str(config)]) == 2
    assert "has no `gateway:` with a ledger" in capsys.readouterr().err
