"""A journal, a writer and a database in a folder, with everything injected that a test may want to break."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from enginebay.errors import StoreUnavailable
from enginebay.gateway.database import Database, open_database
from enginebay.gateway.ledger.hook import LedgerHook
from enginebay.gateway.ledger.journal import Journal
from enginebay.gateway.ledger.prices import Price, Prices
from enginebay.gateway.ledger.tables import ledger
from enginebay.gateway.ledger.writer import LedgerWriter
from enginebay.gateway.logs import make_logger
from enginebay.testing import FakeClock

ASSISTANT = Price.per_million(prompt=0.5, cached=0.05, output=2.0)


@dataclass
class OpenedLedger:
    folder: Path
    journal_options: dict = field(default_factory=dict)
    clock: FakeClock = field(default_factory=FakeClock)
    is_away: bool = False
    """The database refuses."""

    def __post_init__(self) -> None:
        self.url = f"sqlite:///{self.folder}/ledger.db"
        self.journal = Journal(self.folder / "journal", **self.journal_options)
        self.hook = LedgerHook(self.journal, Prices({"assistant": ASSISTANT}, currency="EUR"), unix_now=lambda: 1000.0)
        self._log = io.StringIO()
        self.writer = LedgerWriter(self.journal, self.connect, log=make_logger(self._log), clock=self.clock)

    def connect(self) -> Database:
        if self.is_away:
            raise StoreUnavailable("the database has gone for a walk")
        return open_database(self.url)

    @property
    def log(self) -> list[dict]:
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    @property
    def segments(self) -> list[Path]:
        return sorted((self.folder / "journal").iterdir())


def rows_of(url: str) -> list[dict]:
    with closing(open_database(url)) as database, database.reading() as connection:
        found = connection.execute(sa.select(ledger).order_by(ledger.c.segment, ledger.c.position)).mappings()
        return [dict(row) for row in found]


@contextmanager
def opened(folder: Path, **options) -> Iterator[OpenedLedger]:
    """Closed at the end, as by `end`, without a thread."""
    one = OpenedLedger(folder, journal_options=options)
    yield one
    one.writer.close()


def failing_write(num_bytes: Callable[[bytes], int | None], write: Callable[[int, bytes], int]):
    """num_bytes: how many of a line fit on the disk; None is all of them."""

    def limited(fd: int, line: bytes) -> int:
        fitting = num_bytes(line)
        if fitting is None:
            return write(fd, line)
        if not fitting:
            raise OSError(28, "No space left on device")
        return write(fd, line[:fitting])

    return limited
