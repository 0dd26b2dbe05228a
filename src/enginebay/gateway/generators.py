"""Who keeps a list of the asynchronous generators that a server has begun."""

from __future__ import annotations

import sys


def unlisted_generators() -> None:
    """To be called on the event loop: it keeps no list of generators that have begun, as it does to close those that
    nobody closed when it ends itself. Here each is closed by whoever consumes it, and a request begins half a dozen."""
    sys.set_asyncgen_hooks(None, sys.get_asyncgen_hooks().finalizer)
