"""The gateway's own database, for keys and the ledger: SQLite in WAL mode, or PostgreSQL by its URL."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from enginebay.errors import ConfigError, StoreUnavailable

BUSY_TIMEOUT_S = 5
"""How long one writer of SQLite waits for another, and a connection to PostgreSQL for its server."""
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_POSTGRES = {
    "connect_timeout": BUSY_TIMEOUT_S,
    "tcp_user_timeout": 1000 * BUSY_TIMEOUT_S,  # else one whose machine has gone is waited for a quarter of an hour
    "keepalives_idle": BUSY_TIMEOUT_S,
    "keepalives_interval": 1,
    "keepalives_count": 3,
}
_MIGRATION_LOCK = 0x656E6762  # any number that nothing else takes
_FILE_MODE = 0o600  # whoever reads it knows what every client did and paid

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""All tables of the gateway; a migration for each change of them stands in `migrations/versions`."""


def open_database(url: str, *, must_exist: bool = False) -> Database:
    """Connect, and bring the tables to this version. Blocks: on an event loop, call it in a thread.

    url: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user:password@host/name`.
    must_exist: make neither a file nor tables. Raises ConfigError for a URL that cannot be used or a database that no
    gateway has used yet, StoreUnavailable for one that cannot be reached.
    """
    parsed = _parse(url)
    if parsed.drivername == "sqlite":
        if must_exist and not Path(parsed.database or "").is_file():
            raise _no_database(str(Path(parsed.database or "").absolute()))
        _make_private(parsed)
    database = Database(_engine(parsed), parsed.render_as_string(hide_password=True))
    try:
        if must_exist:
            _demand_tables(database)
        _migrate(database)
    except BaseException:
        database.close()
        raise
    return database


class Database:
    """Connections for threads: nothing here belongs on an event loop."""

    def __init__(self, engine: sa.Engine, name: str) -> None:
        """name: its URL without a password."""
        self._engine, self.name = engine, name

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._engine.dialect.name

    @contextmanager
    def reading(self) -> Generator[sa.Connection, None, None]:
        """One snapshot; waits for no writer. Raises StoreUnavailable."""
        with self._wrapped(), self._engine.connect().execution_options(is_reading=True) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Generator[sa.Connection, None, None]:
        """One transaction, committed at the end; in SQLite the only one. Raises StoreUnavailable."""
        with self._wrapped(), self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _wrapped(self) -> Generator[None, None, None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StoreUnavailable(f"the database {self.name} cannot be used: {cause}") from error


def _no_database(name: str) -> ConfigError:
    return ConfigError(
        f"there is no database {name}",
        expected="the database of a gateway, which `enginebay keys create` or `serve` makes",
    )


def _demand_tables(database: Database) -> None:
    with database.reading() as connection:
        has_tables = sa.inspect(connection).has_table("alembic_version")
    if not has_tables:
        raise _no_database(database.name)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError("the database's URL cannot be read", expected="sqlite:///FILE or postgresql://...") from error
    driver = _DRIVERS.get(parsed.get_backend_name())
    if driver is None:
        problem = f"there is no support for a database of the kind {parsed.get_backend_name()!r}"
        raise ConfigError(problem, expected="sqlite:///FILE or postgresql://...")
    if driver == "sqlite" and not parsed.database:
        raise ConfigError("the URL of the database names no file", expected="sqlite:///FILE")
    return parsed.set(drivername=driver)


def _make_private(url: URL) -> None:
    """SQLite gives the files beside it the same mode.

    A file that is there is not opened: closing it would drop the locks that other connections of this process have on
    it (https://sqlite.org/howtocorrupt.html, 2.2).
    """
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, _FILE_MODE))
    except OSError as error:
        raise StoreUnavailable(f"the database {path} cannot be opened: {error.strerror}") from error


def _engine(url: URL) -> sa.Engine:
    if url.drivername != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, connect_args=_POSTGRES)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # FULL: what is committed survives a power cut, since the ledger then deletes its journal; it is paid in a thread
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later would fail at once, without waiting, where another has written.
    is_reading = connection.get_execution_options().get("is_reading", False)
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")


def _migrate(database: Database) -> None:
    """In one transaction, so that of several gateways which start together one does it."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    with database.writing() as connection:
        if database.dialect == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")
