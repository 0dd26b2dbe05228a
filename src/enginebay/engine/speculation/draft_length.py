"""How many tokens to draft for a request, from how its drafts went so far and from what a draft costs."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_ACCEPTANCE_RATE = 0.6
"""What a request is taken for before its first draft."""
WEIGHT = 0.2
"""Of the newest token in the average."""
FIRST_PAUSE, LONGEST_PAUSE = 16, 256
"""Steps without a draft before one token is tried again: twice as many after each trial that fails."""


@dataclass(frozen=True, slots=True)
class DraftCost:
    """A step of n rows is taken to last 1 + (n - 1) * row_ratio steps of one: weights are read once for all rows."""

    row_ratio: float
    proposal_ratio: float = 0.0
    """Of proposing a token, to a step: the pass of a draft model."""

    def ratio(self, num_rows: int) -> float:
        """What one draft more for each of num_rows requests adds to their step, as a share of it.

        Alone a draft is cheap. The more requests share a step, the less of it is the reading of weights, and the more
        a draft takes from the others.
        """
        return self.proposal_ratio + num_rows * self.row_ratio / (1 + (num_rows - 1) * self.row_ratio)


class DraftLength:
    """The length that promises the most tokens for the time of a step.

    Each drafted token is taken to be accepted with the same probability a, an exponentially weighted average over the
    tokens that were looked at: those accepted, and the first that was not. With k drafts a step then makes
    1 + a + a^2 + ... + a^k tokens, and takes 1 + k * cost_ratio times as long as one without. Where no k promises more
    than none, one is tried now and then: again at once where it was accepted, after a pause where it was not.
    """

    def __init__(self, *, max_num_tokens: int) -> None:
        self._max_num_tokens = max_num_tokens
        self.acceptance_rate = FIRST_ACCEPTANCE_RATE
        self._pause = FIRST_PAUSE
        self._num_steps_left = 0
        self._cost_ratio = 0.0
        self._best = max_num_tokens

    def next(self, cost_ratio: float) -> int:
        """Ask once in each step in which the request could draft; 0 is none.

        cost_ratio: what a draft costs, proposed and verified, as a share of a step without any.
        """
        if cost_ratio != self._cost_ratio:
            self._cost_ratio = cost_ratio
            self._best = self._best_length()
        if self._best:
            return self._best
        self._num_steps_left -= 1
        return 1 if self._num_steps_left < 0 else 0

    def note(self, num_drafted: int, num_accepted: int) -> None:
        """What became of a draft of at least one token."""
        was_trial, has_failed = self._best == 0, num_accepted < num_drafted
        for _ in range(num_accepted):
            self.acceptance_rate += WEIGHT * (1 - self.acceptance_rate)
        if has_failed:
            self.acceptance_rate -= WEIGHT * self.acceptance_rate
        self._best = self._best_length()
        if self._best:
            self._pause = FIRST_PAUSE
        elif not has_failed:
            self._num_steps_left = 0
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
            if speed <= best_speed:
                break  # each token adds less than the one before it: it only falls from here
            best, best_speed = length, speed
        return best
