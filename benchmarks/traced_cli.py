"""`enginebay` under tracemalloc (`python -X tracemalloc`): at each SIGUSR1 it says what came since the one before."""

from __future__ import annotations

import gc
import signal
import sys
import tracemalloc
from types import FrameType

from enginebay.cli import main

NUM_LINES = 25


class Comparison:
    def __init__(self) -> None:
        self._before: tracemalloc.Snapshot | None = None

    def tell(self, number: int, frame: FrameType | None) -> None:
        gc.collect()
        now = tracemalloc.take_snapshot()
        held_bytes, _ = tracemalloc.get_traced_memory()
        print(f"-- traced: {held_bytes / 1e6:.2f} MB", file=sys.stderr, flush=True)
        if self._before is not None:
            for line in now.compare_to(self._before, "lineno")[:NUM_LINES]:
                print(f"   {line}", file=sys.stderr, flush=True)
        self._before = now


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, Comparison().tell)
    sys.exit(main())
