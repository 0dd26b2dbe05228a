"""Brings the journal's entries into the database, from a thread of its own.

It reads them from the files, as they were written: what this process has just appended and what another one left when
it was killed are the same to it. Where the database is away they wait there, and nothing in memory grows.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from enginebay.clock import Clock
from enginebay.errors import EngineBayError
from enginebay.gateway.database import Database
from enginebay.gateway.ledger.journal import Journal
from enginebay.gateway.ledger.segments import Segment
from enginebay.gateway.ledger.tables import store

PERIOD_S = 0.5
"""Between two rounds: what a power cut may cost, and how old the newest row may be."""
ADOPT_PERIOD_S = 60.0
MAX_OPEN_SEGMENTS = 32
"""Files that wait for the database with their locks held: a long outage would else use up what may be open at once."""
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0


class LedgerWriter:
    """`begin` and `end` frame its thread; one `round` after the other is all that it does."""

    def __init__(
        self, journal: Journal, connect: Callable[[], Database], *, log: FilteringBoundLogger, clock: Clock
    ) -> None:
        """connect: opens the database, which is closed at the end; asked for again as long as it fails."""
        self.num_stored = 0
        """Of this process's entries."""
        self.is_storing = True
        """False from a failure of the database on, until it works again."""
        self._journal, self._connect, self._log, self._clock = journal, connect, log, clock
        self._database: Database | None = None
        self._own = journal.own_segment()
        self._finished: deque[Segment] = deque()  # nobody adds to them any more
        self._let_go: dict[str, int] = {}  # ours beyond that, and how far they are stored: found again like orphans
        self._retry_at = self._adopt_at = clock.now()
        self._retry_s = FIRST_RETRY_S
        self._is_journalling = True
        self._num_told_lost = 0
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    @property
    def num_waiting(self) -> int:
        """This process's entries that are not in the database yet."""
        return self._journal.num_appended - self._journal.num_lost - self.num_stored

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Blocks until what waits is stored, or, where the database is away, was tried once more."""
        self._is_ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_ending.wait(PERIOD_S):
            self.round()
        self.close()

    def round(self) -> None:
        """Never raises: what fails is told once, and tried again later."""
        self._care_for_journal()
        if self._clock.now() < self._retry_at:
            return
        try:
            self._store_all()
        except Exception as error:  # noqa: BLE001 - the thread must go on: entries wait until it can
            self._database_failed(error)
        else:
            self._database_works()

    def close(self) -> None:
        """One last round. A segment that is stored whole is deleted; the others wait for the next start."""
        self._journal.close()
        self._retry_at = self._clock.now()
        self.round()
        if self.is_storing and not self._finished:
            self._retire(self._own)
        else:
            self._own.close()
        for segment in self._finished:
            segment.close()
        if self._database is not None:
            self._database.close()

    # ------------------------------------------------------------ the journal

    def _care_for_journal(self) -> None:
        try:
            self._journal.retry()
            self._journal.sync()
            if (full := self._journal.rotated()) is not None:
                self._own = self._journal.own_segment()
                self._finish(full)
            self._adopt()
        except OSError as error:
            self._journal_failed(error.strerror or str(error))
        else:
            self._tell_kept()

    def _finish(self, full: Segment) -> None:
        if len(self._finished) < MAX_OPEN_SEGMENTS:
            self._finished.append(full)
        else:
            self._let_go[full.name] = full.position
            full.close()

    def _adopt(self) -> None:
        is_short_of_work = bool(self._let_go) and not self._finished
        if self._clock.now() < self._adopt_at and not is_short_of_work:
            return
        self._adopt_at = self._clock.now() + ADOPT_PERIOD_S
        found = self._journal.orphans(MAX_OPEN_SEGMENTS - len(self._finished))
        for segment in found:
            if segment.name in self._let_go:
                segment.take_back(self._let_go.pop(segment.name))
            else:
                self._log.info("entries of a gateway that ended early are stored", journal=str(segment.path))
            self._finished.append(segment)
        if is_short_of_work and not found:  # another gateway with this directory has stored them
            self._let_go.clear()

    def _tell_kept(self) -> None:
        if self._journal.num_kept:
            self._journal_failed("a write failed")
        elif not self._is_journalling:
            self._is_journalling = True
            self._log.info("the ledger's journal is written again", num_lost=self._journal.num_lost)

    def _journal_failed(self, reason: str) -> None:
        if self._is_journalling:
            self._is_journalling = False
            self._log.error("the ledger's journal cannot be written: entries wait in memory", reason=reason)
        if self._journal.num_lost > self._num_told_lost:
            self._num_told_lost = self._journal.num_lost
            self._log.error("entries of the ledger are lost: no room in memory either", num_lost=self._num_told_lost)

    # ------------------------------------------------------------ the database

    def _store_all(self) -> None:
        if self._database is None:
            self._database = self._connect()
        while self._finished:
            self._store(self._finished[0], self._database)
            self._retire(self._finished.popleft())
        self._store(self._own, self._database)

    def _store(self, segment: Segment, database: Database) -> None:
        while (batch := segment.read()) is not None:
            if batch.entries:
                store(database, batch.entries)
            segment.advance(batch)
            if segment.is_ours:
                self.num_stored += len(batch.entries)

    def _retire(self, segment: Segment) -> None:
        segment.num_damaged += segment.num_unread_bytes > 0  # a piece of a line, whose writer died in the middle
        if segment.num_damaged:
            self._log.error("the journal had damaged lines: it is kept beside it", num_damaged=segment.num_damaged)
        try:
            segment.remove()
        except OSError as error:  # read again at the next start, and found to be stored
            self._log.error("a stored journal cannot be removed", journal=str(segment.path), reason=error.strerror)
        segment.close()

    def _database_failed(self, error: Exception) -> None:
        self._retry_at = self._clock.now() + self._retry_s
        self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
        if self.is_storing:
            self.is_storing = False
            is_known = isinstance(error, EngineBayError | OSError)
            self._log.error(
                "the ledger's database cannot be used: entries wait in the journal",
                reason=str(error),
                num_waiting=self.num_waiting,
                exc_info=None if is_known else error,
            )

    def _database_works(self) -> None:
        self._retry_s = FIRST_RETRY_S
        if not self.is_storing:
            self.is_storing = True
            self._log.info("the ledger's database works again", num_stored=self.num_stored)
