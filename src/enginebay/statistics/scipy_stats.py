"""The door to SciPy's statistics: loaded when something is compared, and not before."""

from __future__ import annotations

from typing import Any

from enginebay.errors import LoadTestError


def scipy_stats() -> Any:
    """The module `scipy.stats`, which has no types. Raises LoadTestError where SciPy is not installed."""
    try:
        from scipy import stats  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise LoadTestError('a comparison needs SciPy; install it with: pip install "enginebay[bench]"') from error
    return stats
