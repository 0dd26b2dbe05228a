"""Pieces of a command line that every engine has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from enginebay.backend import BackendContext
from enginebay.backends.http_engine.options import ServerOptions


def run_command(default: Sequence[str], arguments: Sequence[str], *, options: ServerOptions) -> tuple[str, ...]:
    """The engine's launcher, or `options.executable` in its place, its arguments, then `options.extra_arguments`."""
    return (*(options.executable or default), *arguments, *options.extra_arguments)


def at_port(context: BackendContext, port: int) -> BackendContext:
    """The same context with the port that was chosen: what a spec's `launch` is asked with for the final command."""
    return replace(context, options=context.options.model_copy(update={"port": port}))
