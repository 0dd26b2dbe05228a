"""Lengths that are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from enginebay.errors import LoadTestError
from enginebay.loadtest.workloads import (
    EmpiricalLengths,
    LogNormalLengths,
    NormalLengths,
)


def drawn(lengths, num: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.asarray([lengths.draw(rng) for _ in range(num)])


def test_drawn_lengths_have_the_moments_of_their_distribution() -> None:
    normal = drawn(NormalLengths(mean=200, std=30, min=1, max=1000))
    assert normal.mean() == pytest.approx(200, abs=4 * 30 / 141)
    assert normal.std() == pytest.approx(30, rel=0.03)
    long_tailed = drawn(LogNormalLengths(mean=200, std=150, min=1, max=100_000))
    assert long_tailed.mean() == pytest.approx(200, abs=4 * 150 / 141)
    assert np.median(long_tailed) == pytest.approx(200 / (1 + 0.75**2) ** 0.5, rel=0.03)
    recorded = drawn(EmpiricalLengths((5, 5, 5, 80)))
    assert set(recorded) == {5, 80}
    assert (recorded == 5).mean() == pytest.approx(0.75, abs=4 * (0.1875 / 20_000) ** 0.5)


def test_bounds_cut_lengths_and_do_not_heap_them_up_at_the_ends() -> None:
    cut = drawn(NormalLengths(mean=100, std=50, min=80, max=120))
    assert (cut.min(), cut.max()) == (80, 120)
    assert (cut == 80).mean() < 0.04
    with pytest.raises(LoadTestError, match="none lies from 900 to 901"):
        NormalLengths(mean=1, std=0.1, min=900, max=901).draw(np.random.default_rng(0))
