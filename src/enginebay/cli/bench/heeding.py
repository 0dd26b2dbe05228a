"""Flags that the chosen journey would not heed: refused before anything is measured, never dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from enginebay.cli.bench.flags import LoadFlags, OtherFlags, ResultFlags, ServerFlags
from enginebay.errors import ConfigError


def demand_heeded(
    backend: Sequence[str] | None, load: LoadFlags, servers: ServerFlags, result: ResultFlags, other: OtherFlags
) -> None:
    """Raises ConfigError for the first flag that would be dropped."""
    given = [*_given(load), *_given(result)]
    if other.self_check:
        _refuse("--self-check", [*given, *(["--backend"] if backend else [])], expected="--self-check alone")
    if other.replay is not None and backend:
        _refuse("--replay", ["--backend"], expected="the backends of the result")
    if servers.url and other.sweep is not None:
        _refuse("--url", ["--sweep"], expected="a config, whose engines can be started with other settings")


def _given(flags: LoadFlags | ResultFlags) -> Iterator[str]:
    for field in fields(flags):
        value = getattr(flags, field.name)
        if value is not None and value is not False:
            yield f"--{field.name.replace('_', '-')}"


def _refuse(journey: str, unheeded: Sequence[str], *, expected: str) -> None:
    if unheeded:
        raise ConfigError(f"{journey} does not go with {unheeded[0]}", expected=expected)
