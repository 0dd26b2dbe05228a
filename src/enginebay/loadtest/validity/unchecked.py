"""A check that had nothing to look at."""

from __future__ import annotations

import msgspec


class Unchecked(msgspec.Struct, frozen=True, kw_only=True):
    """A valid run that was not looked at in one respect: said, so that nobody takes it for a clean bill."""

    code: str
    """Of the reason that the run would have been invalid for."""
    why: str
