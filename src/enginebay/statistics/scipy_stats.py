"""The door to SciPy: loaded when something is compared, and not before."""

from __future__ import annotations

from typing import Any

from enginebay.errors import LoadTestError


def student_tail(root: float, degrees_of_freedom: float) -> float:
    """Probability of a value beyond `root` under Student's law.

    Of `scipy.special`, which `scipy.stats.t` calls too, with a hundred times the time around it.
    """
    return float(_special().stdtr(degrees_of_freedom, -root))


def student_critical(tail: float, degrees_of_freedom: float) -> float:
    """The value beyond which lies `tail`."""
    return -float(_special().stdtrit(degrees_of_freedom, tail))


def scipy_stats() -> Any:
    """The module `scipy.stats`, which has no types. Raises LoadTestError where SciPy is not installed."""
    try:
        from scipy import stats  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise LoadTestError(_MISSING) from error
    return stats


def _special() -> Any:
    try:
        from scipy import special  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise LoadTestError(_MISSING) from error
    return special


_MISSING = 'a comparison needs SciPy; install it with: pip install "enginebay[bench]"'
