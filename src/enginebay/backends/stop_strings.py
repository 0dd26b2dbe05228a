"""Finds stop strings in a text that arrives in pieces, and keeps back what could still become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    stop: str
    text: str
    """The text to deliver before the end: what was kept back, cut at the match."""


class StopStrings:
    """One Knuth-Morris-Pratt automaton for each stop string: constant work for a character, however long they are.

    The match that is complete first ends the text; of several complete at one character, the longest.
    """

    __slots__ = ("_automata", "_held", "_include")

    def __init__(self, stops: Sequence[str], *, include_in_output: bool) -> None:
        self._automata = [_Automaton(stop) for stop in stops]
        self._held = ""
        self._include = include_in_output

    def push(self, text: str, *, may_stop: bool = True) -> str | StopMatch:
        """Return the text that can be delivered now, or the match that ends it.

        may_stop is False for tokens that `min_tokens` protects: a match that ends in them doesn't count, one that
        begins in them may.
        """
        if not self._automata:
            return text
        buffer = self._held + text
        for end in range(len(self._held) + 1, len(buffer) + 1):
            stop = self._advance(buffer[end - 1])
            if stop is not None and may_stop:
                self._held = ""
                return StopMatch(stop, buffer[: end if self._include else end - len(stop)])
        num_held = max(automaton.num_matched for automaton in self._automata)
        self._held = buffer[len(buffer) - num_held :]
        return buffer[: len(buffer) - num_held]

    def flush(self) -> str:
        """What was kept back, at the end of a text that no stop string ended."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> str | None:
        """Feed every automaton; return the longest stop string that is complete now."""
        complete = [automaton.stop for automaton in self._automata if automaton.advance(character)]
        return max(complete, key=len, default=None)


class _Automaton:
    """num_matched: how many characters of the stop string the text ends with, fewer than all of them."""

    __slots__ = ("_fallbacks", "num_matched", "stop")

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.num_matched = 0
        self._fallbacks = _fallbacks(stop)

    def advance(self, character: str) -> bool:
        while self.num_matched and self.stop[self.num_matched] != character:
            self.num_matched = self._fallbacks[self.num_matched - 1]
        if self.stop[self.num_matched] == character:
            self.num_matched += 1
        if self.num_matched < len(self.stop):
            return False
        self.num_matched = self._fallbacks[-1]
        return True


def _fallbacks(stop: str) -> list[int]:
    """At i: the length of the longest proper prefix of stop[: i + 1] that is also its suffix."""
    lengths = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[index] != stop[length]:
            length = lengths[length - 1]
        if stop[index] == stop[length]:
            length += 1
        lengths[index] = length
    return lengths
