import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from enginebay.errors import ConfigError, StoreUnavailable
from enginebay.gateway.access import tables as _access_tables
from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.access.tables import api_key_changes
from enginebay.gateway.database import Database, metadata, open_database
from enginebay.gateway.ledger import tables as _ledger_tables

TABLES_OF = (_access_tables, _ledger_tables)


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(database_url: str) -> None:
    database = open_database(database_url)
    with database.reading() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    database.close()
    assert differences == []


def test_gateways_that_start_together_migrate_once_and_all_find_the_tables(database_url: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        databases = list(threads.map(open_database, [database_url] * 8))
    for database in databases:
        with database.reading() as connection:
            assert connection.execute(sa.select(api_key_changes)).all() == [(1, 0)]
        database.close()


def test_a_reader_sees_one_snapshot_and_waits_for_no_writer(database_url: str) -> None:
    database = open_database(database_url)
    with database.writing() as writer:
        writer.execute(api_key_changes.update().values(num_changes=5))
        assert _num_changes(database) == 0
    assert _num_changes(database) == 5
    database.close()


def test_a_transaction_that_fails_leaves_nothing(database_url: str) -> None:
    database = open_database(database_url)
    with pytest.raises(ZeroDivisionError), database.writing() as writer:  # noqa: PT012 - what is written matters
        writer.execute(api_key_changes.update().values(num_changes=5))
        raise ZeroDivisionError
    assert _num_changes(database) == 0
    database.close()


def test_writers_wait_for_each_other_and_lose_nothing(database_url: str) -> None:
    database = open_database(database_url)

    def count_up(_: int) -> None:
        with database.writing() as connection:
            connection.execute(api_key_changes.update().values(num_changes=api_key_changes.c.num_changes + 1))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count_up, range(40)))
    assert _num_changes(database) == 40
    database.close()


def test_the_file_of_sqlite_is_for_its_owner_alone_and_in_wal_mode(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "gateway.db"
    database = open_database(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert stat.S_IMODE(path.with_name("gateway.db-wal").stat().st_mode) == 0o600
    database.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("gateway.db", "cannot be read"),
        ("mysql://root@localhost/x", "'mysql'"),
        ("sqlite://", "names no file"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_what_could_be(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        open_database(url)
    assert "sqlite:///FILE" in str(raised.value)


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(StoreUnavailable, match="cannot be used") as raised:
        open_database("postgresql://user:hunter2@127.0.0.1:1/none")
    assert "hunter2" not in str(raised.value)
    assert "127.0.0.1:1" in str(raised.value)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        open_database(f"sqlite:///{tmp_path}/file/gateway.db")


def _num_changes(database: Database) -> int:
    with database.reading() as connection:
        return connection.execute(sa.select(api_key_changes.c.num_changes)).scalar_one()


def test_opening_a_file_again_leaves_the_locks_of_those_who_have_it_open(tmp_path: Path) -> None:
    """A process that closes a file loses its locks on it, of all its connections: SQLite elsewhere, closing last as it
    thinks then, removes the write-ahead log under our feet."""
    file = tmp_path / "gateway.db"
    first = open_database(f"sqlite:///{file}")
    assert _num_changes(first) == 0
    second = open_database(f"sqlite:///{file}")
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM api_key_changes'); c.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    with first.writing() as connection:
        connection.execute(api_key_changes.update().values(num_changes=7))
    assert Path(f"{file}-wal").stat().st_size > 0
    with closing(sqlite3.connect(file)) as elsewhere:
        assert elsewhere.execute("SELECT num_changes FROM api_key_changes").fetchone() == (7,)
    first.close()
    second.close()


@pytest.mark.postgres
def test_a_postgresql_that_has_cut_all_connections_is_used_again_at_once(new_postgres_url: Iterator[str]) -> None:
    url = next(new_postgres_url)
    with closing(open_database(url)) as database, closing(open_database(url)) as other:
        store = KeyStore(database)
        store.create("before", scopes=["inference"])
        with other.writing() as connection:
            cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            query = sa.text(f"{cut} AND datname = current_database()")
            assert connection.execute(query).scalar_one() >= 1
        store.create("after", scopes=["inference"])
        assert [record.name for record in store.all()] == ["before", "after"]
