"""A queue whose capacity is known to the last digit: Poisson arrivals, `num_servers` servers, equal service times.

What a search finds is set against what queueing theory says. No engine is played: this is arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NUM_STATES = 200
"""Requests in the system beyond the servers that are told apart; longer queues hardly occur below 97 % of the limit."""
NUM_HALVINGS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownQueue:
    """First come, first served (M/D/c)."""

    num_servers: int
    service_s: float

    @property
    def limit_rps(self) -> float:
        """What is served at most; the capacity for any level lies below."""
        return self.num_servers / self.service_s

    def wait_probability(self, rate_rps: float, level_s: float) -> float:
        """That a request waits longer than `level_s` in the steady state.

        Source: Franx 2001, A simple solution for the M/D/c waiting time distribution, Operations Research Letters 29.
        """
        num_terms = math.floor(level_s / self.service_s) + 1
        arrived = rate_rps * (num_terms * self.service_s - level_s)
        queue = np.cumsum(self._steady_state(rate_rps))[self.num_servers :]
        numbers = np.arange(num_terms * self.num_servers)
        weights = _poisson(arrived, len(numbers))
        return 1.0 - float(weights @ queue[num_terms * self.num_servers - 1 - numbers])

    def capacity_rps(self, level_s: float, *, allowed_ratio: float) -> float:
        """The rate at which exactly the allowed share of the requests waits longer than the level."""
        low, high = 0.01 * self.limit_rps, 0.999 * self.limit_rps
        for _ in range(NUM_HALVINGS):
            middle = (low + high) / 2
            is_met = self.wait_probability(middle, level_s) <= allowed_ratio
            low, high = (middle, high) if is_met else (low, middle)
        return (low + high) / 2

    def waits(self, arrived_at: np.ndarray) -> np.ndarray:
        """Of each request, from an empty queue on. Equal services end in order, so each server gets every c-th."""
        waits = np.empty(len(arrived_at))
        for server in range(self.num_servers):
            steps = self.service_s - np.diff(arrived_at[server :: self.num_servers], prepend=np.nan)
            walk = np.cumsum(np.nan_to_num(steps, nan=0.0))
            waits[server :: self.num_servers] = walk - np.minimum.accumulate(walk)
        return waits

    def _steady_state(self, rate_rps: float) -> np.ndarray:
        """Of the number in the system; after one service time exactly those are gone that were being served."""
        size = self.num_servers + NUM_STATES
        arrivals = _poisson(rate_rps * self.service_s, size)
        moves = np.zeros((size, size))
        for number in range(size):
            left = max(0, number - self.num_servers)
            moves[number, left:] = arrivals[: size - left]
            moves[number, -1] += 1 - moves[number].sum()
        equations = np.vstack([moves.T - np.eye(size), np.ones(size)])[1:]
        return np.linalg.solve(equations, np.append(np.zeros(size - 1), 1.0))


def _poisson(mean: float, num_values: int) -> np.ndarray:
    """Probabilities of 0, 1, ..."""
    numbers = np.arange(num_values)
    if mean <= 0:
        return (numbers == 0).astype(float)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num_values)))])
    return np.exp(numbers * np.log(mean) - mean - log_factorials)
