"""`python answering_child.py FOLDER ROUND`: a gateway that answers calls as fast as it can, until it is killed.

Prints the id of each call once its `at_end` has returned, as the last byte of an answer would follow it.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from ledger_calls import call, outcome

from enginebay.clock import MonotonicClock
from enginebay.gateway.database import open_database
from enginebay.gateway.ledger import writer
from enginebay.gateway.ledger.hook import LedgerHook
from enginebay.gateway.ledger.journal import Journal
from enginebay.gateway.ledger.prices import Prices
from enginebay.gateway.logs import make_logger


def main(folder: Path, round_name: str) -> None:
    writer.PERIOD_S = 0.002  # so that kills fall between commits and deletions too
    journal = Journal(folder / "journal", max_segment_bytes=10_000)
    hook = LedgerHook(journal, Prices({}, currency="EUR"))
    url = f"sqlite:///{folder}/ledger.db"
    storing = writer.LedgerWriter(journal, lambda: open_database(url), log=make_logger(), clock=MonotonicClock())
    storing.begin()
    for serial in count():
        request_id = f"{round_name}-{serial}"
        hook.at_end(call(request_id), outcome())
        print(request_id, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
