"""How many tokens to draft for a request, from how its drafts went so far."""

from __future__ import annotations

FIRST_ACCEPTANCE_RATE = 0.6
"""What a request is taken for before its first draft."""
WEIGHT = 0.2
"""Of the newest token in the average."""
FIRST_PAUSE, LONGEST_PAUSE = 16, 256
"""Steps without a draft before one token is tried again: twice as many after each trial that fails."""


class DraftLength:
    """The length that promises the most tokens for the time of a step.

    Each drafted token is taken to be accepted with the same probability a, an exponentially weighted average over the
    tokens that were looked at: those accepted, and the first that was not. With k drafts a step then makes
    1 + a + a^2 + ... + a^k tokens, and takes 1 + k * cost_ratio times as long as one without. Where no k promises more
    than none, there is a pause, and then a trial with one.
    """

    def __init__(self, *, max_num_tokens: int, cost_ratio: float) -> None:
        """cost_ratio: what a draft costs, proposed and verified, as a share of a step without any."""
        self._max_num_tokens, self._cost_ratio = max_num_tokens, cost_ratio
        self.acceptance_rate = FIRST_ACCEPTANCE_RATE
        self._pause = FIRST_PAUSE
        self._num_steps_left = 0
        self._best = self._best_length()

    def next(self) -> int:
        """Ask once in each step in which the request could draft; 0 is none."""
        if self._best:
            return self._best
        self._num_steps_left -= 1
        return 1 if self._num_steps_left < 0 else 0

    def note(self, num_drafted: int, num_accepted: int) -> None:
        """What became of a draft of at least one token."""
        was_trial = self._best == 0
        for _ in range(num_accepted):
            self.acceptance_rate += WEIGHT * (1 - self.acceptance_rate)
        if num_accepted < num_drafted:
            self.acceptance_rate -= WEIGHT * self.acceptance_rate
        self._best = self._best_length()
        if self._best:
            self._pause = FIRST_PAUSE
        else:
            self._pause = min(2 * self._pause, LONGEST_PAUSE) if was_trial else FIRST_PAUSE
            self._num_steps_left = self._pause

    def _best_length(self) -> int:
        best, best_speed = 0, 1.0
        num_expected = probability = 1.0
        for length in range(1, self._max_num_tokens + 1):
            probability *= self.acceptance_rate
            num_expected += probability
            speed = num_expected / (1 + length * self._cost_ratio)
            if speed > best_speed:
                best, best_speed = length, speed
        return best
