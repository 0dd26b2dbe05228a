"""SIGHUP from the first moment on: it asks for a reload, and must not end a server that is only starting."""

from __future__ import annotations

import signal
from types import FrameType


class Hangups:
    """Keeps those that come before anybody can take them. Made in the main thread."""

    def __init__(self) -> None:
        self._has_come = False
        signal.signal(signal.SIGHUP, self._came)

    def _came(self, number: int, frame: FrameType | None) -> None:
        self._has_come = True

    def hand_over(self) -> None:
        """To whoever has taken the signal over meanwhile."""
        if self._has_come:
            self._has_come = False
            signal.raise_signal(signal.SIGHUP)

    def give_up(self) -> None:
        """There is nothing to reload: from here on it ends the process, as does one that came before."""
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        self.hand_over()
