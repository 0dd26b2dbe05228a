from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from running_server import RunningServer
from scripted_backend import ScriptedBackend


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(ScriptedBackend) as running:
        yield running


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    from real_stores import running_redis

    with running_redis() as url:
        yield url


@pytest.fixture(scope="session")
def new_postgres_url() -> Iterator[Iterator[str]]:
    """The next of it is a new database."""
    from real_stores import new_postgres_database, running_postgres

    with running_postgres() as url:
        yield (new_postgres_database(url, f"test_{serial}") for serial in count())


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database; every test runs on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/gateway.db"
    return next(request.getfixturevalue("new_postgres_url"))
