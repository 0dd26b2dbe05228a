"""What steps took, and from it the least that a request can still take: a bound, not a forecast."""

from __future__ import annotations

NUM_SAMPLES_TO_TRUST = 8
"""Steps of a size before it says anything: the first ones of a process are slow."""
DRIFT = 0.02


class StepTimes:
    """The fastest steps of each size (by powers of two of their tokens), smoothed.

    A value moves to a faster sample at once, and to slower ones by 2 % of the difference: it follows a machine that has
    become slower within some hundred steps, and never one slow step.

    Sizes speak for each other by two rules that hold for every model: a step of more tokens takes no less time, and
    no more time for each token. Nothing that was measured says nothing: the bound is then 0.
    """

    def __init__(self) -> None:
        self._fastest_s: dict[int, float] = {}
        self._fastest_s_per_token: dict[int, float] = {}
        self._num_samples: dict[int, int] = {}
        self._most_output_tokens = 1

    def note(self, step_s: float, *, num_tokens: int, most_output_tokens: int) -> None:
        """most_output_tokens: what the luckiest request of the step was given; more than 1 with speculation."""
        if num_tokens < 1:
            return
        size = num_tokens.bit_length() - 1
        self._num_samples[size] = self._num_samples.get(size, 0) + 1
        _drift(self._fastest_s, size, step_s)
        _drift(self._fastest_s_per_token, size, step_s / num_tokens)
        self._most_output_tokens = max(self._most_output_tokens, most_output_tokens)

    def least_step_s(self, num_tokens: int) -> float:
        """No step of so many tokens takes less, as far as was measured."""
        trusted = [size for size, num_samples in self._num_samples.items() if num_samples >= NUM_SAMPLES_TO_TRUST]
        return max((self._bound_s(num_tokens, size) for size in trusted), default=0.0)

    def least_s(self, *, num_uncomputed_tokens: int, num_output_tokens: int, most_step_tokens: int) -> float:
        """For a request that has the engine to itself; its first token comes with the last step of its prompt."""
        num_full_steps, num_left = divmod(num_uncomputed_tokens, most_step_tokens)
        prompt_s = num_full_steps * self.least_step_s(most_step_tokens)
        prompt_s += self.least_step_s(num_left) if num_left else 0.0
        num_decode_steps = -(-max(0, num_output_tokens - 1) // self._most_output_tokens)
        return prompt_s + num_decode_steps * self.least_step_s(1)

    def _bound_s(self, num_tokens: int, size: int) -> float:
        """From steps of [2**size, 2**(size + 1)) tokens."""
        if num_tokens >= 2 ** (size + 1):
            return self._fastest_s[size]
        return min(num_tokens, 2**size) * self._fastest_s_per_token[size]


def _drift(values: dict[int, float], size: int, sample: float) -> None:
    value = values.get(size, sample)
    values[size] = min(sample, value + DRIFT * (sample - value))
