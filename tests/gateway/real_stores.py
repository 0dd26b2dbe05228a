"""Redis and PostgreSQL of a test's own, on loopback, gone with it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from enginebay.clock import MonotonicClock

START_TIMEOUT_S = 30.0


@contextmanager
def running_redis() -> Generator[str, None, None]:
    """The URL of an empty one."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = _free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([program, *arguments, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            _wait_for_port(port, process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait()


@contextmanager
def running_postgres() -> Generator[str, None, None]:
    """The URL of its database `postgres`, of which any other can be made."""
    folder = _postgres_programs()
    if folder is None:
        pytest.skip("PostgreSQL's server programs (initdb, postgres) are not installed")
    port = _free_port()
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        as_user = _without_root(Path(temporary))
        initialise = [folder / "initdb", "-D", data, "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run([*as_user, *initialise], check=True, stdout=subprocess.DEVNULL, cwd="/")
        serve = [folder / "postgres", "-D", data, "-p", str(port), "-k", temporary, "-c", "fsync=off"]
        process = subprocess.Popen([*as_user, *serve], stderr=subprocess.DEVNULL, cwd="/")
        try:
            url = f"postgresql://tester@127.0.0.1:{port}/postgres"
            _wait_for_postgres(url, process)
            yield url
        finally:
            process.terminate()
            process.wait()


def new_postgres_database(url: str, name: str) -> str:
    """url: of `running_postgres`. Returns that of a new, empty database."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.removesuffix("postgres") + name


def _postgres_programs() -> Path | None:
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


def _without_root(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return []
    folder.chmod(0o777)
    return ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    clock = MonotonicClock()
    gives_up_at = clock.now() + START_TIMEOUT_S
    while process.poll() is None and clock.now() < gives_up_at:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise RuntimeError(f"{process.args} did not begin to listen on port {port}")


def _wait_for_postgres(url: str, process: subprocess.Popen[bytes]) -> None:
    """It listens before it can be used."""
    _wait_for_port(int(url.rsplit(":", 1)[1].partition("/")[0]), process)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    clock = MonotonicClock()
    gives_up_at = clock.now() + START_TIMEOUT_S
    while clock.now() < gives_up_at:
        try:
            engine.connect().close()
        except OperationalError:
            continue
        engine.dispose()
        return
    raise RuntimeError("PostgreSQL listens, and lets nobody in")
