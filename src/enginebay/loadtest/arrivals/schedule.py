"""From a load to the offsets of its arrivals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from zlib import crc32

import msgspec
import numpy as np

from enginebay.errors import LoadTestError
from enginebay.loadtest.arrivals.gaps import exponential_gaps, gamma_gaps
from enginebay.loadtest.arrivals.rates import ChangingRate, Ramp, Steps, at_changing_rate
from enginebay.loadtest.plan import Load

ARRIVAL_STREAM = 3
"""Apart from the streams of prompts and lengths, which come from the same seed."""


def offsets_of(load: Load, num_arrivals: int | None, *, seed: int, trace_offsets: Sequence[float] = ()) -> list[float]:
    """Rising offsets in seconds of an open load, `num_arrivals` at most.

    Ramps, steps and traces have an end of their own; with None they run until it. trace_offsets: those of a trace as
    it was recorded, from 0 on. Raises LoadTestError without arrivals, or where nothing says how many.
    """
    if load.arrivals == "trace":
        offsets = [offset / (load.speed or 1) for offset in trace_offsets]
    elif (rate := _changing_rate(load)) is not None:
        offsets = at_changing_rate(_random_gaps(load, seed), rate)
    elif num_arrivals is None or load.rate is None:
        raise LoadTestError(f"{load}: has no end, so the number of requests must be given")
    elif load.arrivals == "constant":
        # Multiplied out, so that no rounding adds up.
        offsets = [index / load.rate for index in range(num_arrivals)]
    else:
        rate = load.rate
        offsets = [place / rate for place in islice(accumulate(_random_gaps(load, seed)), num_arrivals)]
    if not offsets:
        raise LoadTestError(f"{load}: nothing arrives in it")
    return offsets[:num_arrivals]


def _changing_rate(load: Load) -> ChangingRate | None:
    if load.arrivals == "steps":
        return Steps(load.steps)
    if load.arrivals == "ramp" and load.rate and load.end_rate and load.duration_s:
        return Ramp(load.rate, load.end_rate, load.duration_s)
    return None


def _random_gaps(load: Load, seed: int) -> Iterator[float]:
    """A stream of its own for each load: the loads of a sweep do not repeat each other's pattern, at another scale."""
    rng = np.random.default_rng([seed, ARRIVAL_STREAM, crc32(msgspec.json.encode(load, order="sorted"))])
    if load.burstiness is None:
        return exponential_gaps(rng)
    return gamma_gaps(rng, burstiness=load.burstiness)
