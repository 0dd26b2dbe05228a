"""Who missed a level in one probe, and how many independent observations that is worth.

Misses come in bursts: a queue that is long now is long for the next request too. So `n` requests tell as much as
`n / tau` independent ones, tau being the integrated autocorrelation time of the misses in the order of arrival.
Source: Sokal 1997, Monte Carlo methods in statistical mechanics, section 3 (the self-consistent window).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

WINDOW_FACTOR = 5.0
"""The window ends at the first lag that is this many times the time found so far."""


class Misses(msgspec.Struct, frozen=True, kw_only=True):
    """Of one requirement in one probe."""

    allowed_ratio: float
    num_requests: int
    num_missed: int
    autocorrelation_time: float | None
    """In requests, 1 for independent ones. None where all or none missed, which tells nothing about bursts."""

    @classmethod
    def of(cls, num_missed: int, num_requests: int, *, allowed_ratio: float) -> Misses:
        """Of whom nothing is known but how many."""
        return cls(
            allowed_ratio=allowed_ratio,
            num_requests=num_requests,
            num_missed=num_missed,
            autocorrelation_time=None,
        )

    @property
    def ratio(self) -> float:
        return self.num_missed / self.num_requests if self.num_requests else 0.0

    @property
    def is_met(self) -> bool:
        return self.ratio <= self.allowed_ratio


def count_misses(missed: Sequence[bool], *, allowed_ratio: float) -> Misses:
    """missed: in the order of arrival."""
    return Misses(
        allowed_ratio=allowed_ratio,
        num_requests=len(missed),
        num_missed=int(np.count_nonzero(missed)),
        autocorrelation_time=autocorrelation_time(missed),
    )


def autocorrelation_time(missed: Sequence[bool]) -> float | None:
    values = np.asarray(missed, dtype=float)
    centred = values - values.mean() if len(values) else values
    variance = float(centred @ centred)
    if variance == 0:
        return None
    correlations = _correlations(centred) / variance
    time = 1.0
    for lag in range(1, len(values)):
        time += 2 * float(correlations[lag])
        if lag >= WINDOW_FACTOR * time:
            break
    return max(1.0, time)


def _correlations(centred: np.ndarray) -> np.ndarray:
    """Of every lag, by a Fourier transform; padded, so that the end does not meet the beginning."""
    size = 1 << (2 * len(centred) - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    return np.fft.irfft(spectrum * np.conj(spectrum), size)[: len(centred)]
