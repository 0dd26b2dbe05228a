"""When requests arrive in an open loop: absolute offsets from the start of a run, drawn once, from one seeded stream.

Offsets are absolute so that a late request does not push the ones behind it, and they are never rescaled to meet the
asked rate exactly: that would take the variance out of a Poisson process.
"""

from __future__ import annotations

import numpy as np


def constant_offsets(num_requests: int, rate: float) -> list[float]:
    """One request every 1 / rate seconds, the first at once. Multiplied out, so that no rounding adds up."""
    return [index / rate for index in range(num_requests)]


def poisson_offsets(num_requests: int, rate: float, *, seed: int) -> list[float]:
    """A Poisson process: independent exponential gaps with mean 1 / rate, the first before the first request."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=num_requests)
    return [float(offset) for offset in np.cumsum(gaps)]
