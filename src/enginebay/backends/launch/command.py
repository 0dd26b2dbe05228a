"""Pieces of a command line that every engine has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from enginebay.backend import BackendContext
from enginebay.backends.http_engine.options import ServerOptions
from enginebay.errors import ConfigError

_ADDRESS = ("--port", "-p", "--host", "--hostname")


def run_command(default: Sequence[str], arguments: Sequence[str], *, options: ServerOptions) -> tuple[str, ...]:
    """The engine's launcher, or `options.executable` in its place, its arguments, then `options.extra_arguments`.

    Raises ConfigError for an extra argument that is among `arguments` already.
    """
    check_extra_arguments(arguments, options=options)
    return (*(options.executable or default), *arguments, *options.extra_arguments)


def check_extra_arguments(arguments: Sequence[str], *, options: ServerOptions) -> None:
    """Raises ConfigError where they repeat a flag of ours: the engine would serve at another port, or otherwise than
    the plan says."""
    ours = {_flag(argument) for argument in arguments} - {None}
    for argument in options.extra_arguments:
        if (flag := _flag(argument)) in ours:
            raise ConfigError(
                f"{argument.partition('=')[0]} is set already",
                path="options.extra_arguments",
                expected="options.port" if flag in _ADDRESS else "a flag that no setting or option stands for",
            )


def _flag(argument: str) -> str | None:
    """Of `--max_num=3` it is `--max-num`; None for a value."""
    name = argument.partition("=")[0].replace("_", "-")
    return name if re.fullmatch(r"-[A-Za-z]|--[\w-]+", name) else None


def at_port(context: BackendContext, port: int) -> BackendContext:
    """The same context with the port that was chosen: what a spec's `launch` is asked with for the final command."""
    return replace(context, options=context.options.model_copy(update={"port": port}))
