"""The libraries of the extra `enginebay[models]` are imported on use; their absence is one clear error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from enginebay.errors import ModelError


@contextmanager
def models_extra(purpose: str) -> Iterator[None]:
    """Wrap the imports that need the extra. Raises ModelError that names what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModelError(
            f'{purpose} needs the Python package {error.name!r}; install it with: pip install "enginebay[models]"'
        ) from error
