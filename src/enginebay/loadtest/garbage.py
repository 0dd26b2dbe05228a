"""While a run lasts, the garbage collector looks at young objects alone.

To look at all of them would stop the event loop for as long as it takes, and a run makes hundreds of thousands.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

NEVER = 2**30


@contextmanager
def young_garbage_only(*, collects_before: bool = True) -> Iterator[None]:
    if collects_before:
        gc.collect()
    gc.freeze()
    thresholds = gc.get_threshold()
    gc.set_threshold(*thresholds[:2], NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
