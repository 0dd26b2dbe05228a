"""`enginebay keys`, as a user sees it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from enginebay.cli.main import run
from enginebay.gateway.access.keys import hash_of, key_id_of
from enginebay.gateway.access.records import KeyRecord
from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.database import open_database

CONFIG = """\
version: 1
gateway:
  database: sqlite:///{folder}/gateway.db
  models: {{assistant: {{versions: {{v1: [{{backend: reference}}]}}}}}}
  access: {{}}
  limits: {{tiers: {{gold: {{requests_per_minute: 5}}}}}}
"""


class Keys:
    """The commands on one config."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.config = folder / "gateway.yaml"
        self.config.write_text(CONFIG.format(folder=folder))

    def run(self, command: str, *tokens: str) -> tuple[int, str, str]:
        code = run(["keys", command, str(self.config), *tokens])
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err

    def record(self, text: str) -> KeyRecord:
        with closing(open_database(f"sqlite:///{self.folder}/gateway.db")) as database:
            found = KeyStore(database).find(key_id_of(text) or "")
        assert found is not None
        return found


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Keys:
    return Keys(tmp_path, capsys)


def test_a_key_is_printed_once_and_alone_and_is_good(keys: Keys) -> None:
    code, out, err = keys.run("create", "the ci", "--model", "assistant", "--tier", "gold", "--days", "30")
    text = out.strip()
    assert code == 0
    record = keys.record(text)
    assert record.accepts(hash_of(text), record.created_at_unix + 29.9 * 86_400)
    assert not record.accepts(hash_of(text), record.created_at_unix + 30.1 * 86_400)
    assert (record.name, record.models, record.tier, record.scopes) == ("the ci", {"assistant"}, "gold", {"inference"})
    assert text not in err
    assert record.key_id in err


def test_the_list_shows_each_key_and_no_secret(keys: Keys) -> None:
    texts = [keys.run("create", name, "--scope", "metrics")[1].strip() for name in ("ada", "[red]bob")]
    keys.run("revoke", key_id_of(texts[0]) or "")
    _, table, _ = keys.run("list")
    assert "[red]bob" in table
    assert all((key_id_of(text) or "") in table for text in texts)
    assert not any(text[20:] in table for text in texts)
    _, out, _ = keys.run("list", "--json")
    assert [(key["name"], key["state"], key["scopes"]) for key in json.loads(out)] == [
        ("ada", "revoked", ["metrics"]),
        ("[red]bob", "valid", ["metrics"]),
    ]


def test_a_key_that_leaked_is_revoked_by_its_text(keys: Keys) -> None:
    text = keys.run("create", "ada")[1].strip()
    code, out, _ = keys.run("revoke", text)
    assert code == 0
    assert text not in out
    assert keys.record(text).revoked_at_unix is not None


def test_a_rotated_key_keeps_its_id_and_both_secrets_for_the_overlap(keys: Keys) -> None:
    old = keys.run("create", "ada")[1].strip()
    new = keys.run("rotate", key_id_of(old) or "", "--overlap-s", "60")[1].strip()
    record = keys.record(old)
    now_unix = record.secrets[-1].created_at_unix
    assert key_id_of(new) == key_id_of(old)
    assert [record.accepts(hash_of(text), now_unix + 59) for text in (old, new)] == [True, True]
    assert [record.accepts(hash_of(text), now_unix + 61) for text in (old, new)] == [False, True]


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        (["create", "ada", "--scope", "inferense"], "Did you mean 'inference'?"),
        (["create", "ada", "--model", "asistant"], "Did you mean 'assistant'?"),
        (["create", "ada", "--tier", "silver"], "expected one of gold"),
        (["create", "ada", "--days", "0"], "greater than 0"),
        (["create", "ada", "--days", "nan"], "greater than 0"),
        (["rotate", "0123456789abcdef", "--overlap-s", "-1"], "at least 0"),
        (["rotate", "0123456789abcdef"], "there is no key with the id"),
        (["revoke", "0123456789abcdef"], "there is no key with the id"),
    ],
)
def test_what_is_not_known_is_refused_by_name(keys: Keys, tokens: list[str], problem: str) -> None:
    keys.run("create", "somebody else")
    code, out, err = keys.run(*tokens)
    assert (code, out) == (2, "")
    assert problem in err


def test_a_gateway_that_asks_for_no_keys_gets_none(keys: Keys) -> None:
    keys.config.write_text(CONFIG.format(folder=keys.folder).partition("  access")[0])
    code, _, err = keys.run("create", "ada")
    assert code == 2
    assert "gateway.access" in err
    assert not (keys.folder / "gateway.db").exists()


@pytest.mark.parametrize("tokens", [["list"], ["list", "--json"], ["rotate", "0123456789abcdef"], ["revoke", "abc"]])
def test_a_database_that_is_not_there_is_told_with_its_whole_path_and_not_made(keys: Keys, tokens: list[str]) -> None:
    code, out, err = keys.run(*tokens)
    assert (code, out) == (2, "")
    assert f"there is no database {keys.folder}/gateway.db" in err
    assert "enginebay keys create" in err
    assert not (keys.folder / "gateway.db").exists()


def test_a_file_that_is_no_database_of_a_gateway_stays_as_it_is(keys: Keys) -> None:
    (keys.folder / "gateway.db").touch()
    code, _, err = keys.run("list")
    assert code == 2
    assert "there is no database" in err
    with closing(sqlite3.connect(keys.folder / "gateway.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_a_gateway_without_keys_yet_says_so(keys: Keys) -> None:
    open_database(f"sqlite:///{keys.folder}/gateway.db").close()
    code, out, err = keys.run("list")
    assert (code, out) == (0, "")
    assert "there are no keys yet" in err
    assert keys.run("list", "--json")[1].strip() == "[]"
