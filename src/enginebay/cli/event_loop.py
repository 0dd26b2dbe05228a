"""The event loop that commands run on."""

from __future__ import annotations

from enginebay.event_loop import new_event_loop

__all__ = ["new_event_loop"]
