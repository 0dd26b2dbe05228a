"""How seldom the cyclic garbage collector looks at what a server holds."""

from __future__ import annotations

import gc

YOUNG, MIDDLE, OLD = 50_000, 20, 50
"""Thresholds of the three generations. A request leaves next to no cycles behind, and with Python's own thresholds the
collector takes a seventh of the time of a busy gateway, in pauses that its clients see."""


def rarely_collected() -> None:
    """To be called when everything that lives as long as the server does is there: it is never walked again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
