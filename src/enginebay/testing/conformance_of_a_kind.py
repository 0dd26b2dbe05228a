"""The conformance suite of a kind that is named on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from enginebay.config.loader import load_config
from enginebay.config.yaml_scalars import plain_scalar
from enginebay.configured import configured_backend
from enginebay.errors import EngineBayError
from enginebay.guard import GuardedBackend
from enginebay.plugins import get_backend
from enginebay.testing.conformance import BackendConformance


def conformance_class(kind: str, *, config_file: str | None, options: Sequence[str]) -> type[BackendConformance]:
    """Raises pytest.UsageError for what cannot be built; nothing starts before the first test."""
    if config_file is not None and options:
        raise pytest.UsageError("--backend-config and --backend-option exclude each other: the config has it all")
    keywords = dict(map(_parsed, options))
    try:
        _make(kind, config_file, keywords)
    except EngineBayError as error:
        raise pytest.UsageError(str(error)) from error

    class TestBackend(BackendConformance):
        def make_backend(self) -> GuardedBackend:
            return _make(kind, config_file, keywords)

    return TestBackend


def _make(kind: str, config_file: str | None, keywords: dict[str, Any]) -> GuardedBackend:
    if config_file is None:
        return get_backend(kind, **keywords)
    return configured_backend(load_config(Path(config_file)), kind)


def _parsed(option: str) -> tuple[str, object]:
    """`key=value`, the value as YAML would read it."""
    key, separator, value = option.partition("=")
    if not separator or not key.isidentifier():
        raise pytest.UsageError(f"--backend-option {option!r} is no KEY=VALUE")
    return key, plain_scalar(value)
