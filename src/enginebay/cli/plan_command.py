"""The command of a plan as text that a shell takes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from enginebay.backend import FILES
from enginebay.backends.http_engine.options import ServerOptions
from enginebay.backends.launch.environment import inherited_environment
from enginebay.backends.launch.executable import environment_of_venv, program_of, runs_container
from enginebay.config.secret import MASK, is_secret_key
from enginebay.configured import CheckedBackend
from enginebay.errors import StartFailed
from enginebay.plugins import context_mode

_ONE_LINE = 100


def command_lines(checked: CheckedBackend) -> Iterator[str]:
    """Where its program is, then the command; or what there is in place of one."""
    plan, context = checked.plan, checked.context
    if not plan.command:
        yield from _without_command(checked)
        return
    if isinstance(context.options, ServerOptions):
        yield f"executable: {_program(checked)}"
    environment = {**plan.environment, **context.environment}
    assignments = [f"{key}={MASK if is_secret_key(key) else shlex.quote(value)}" for key, value in environment.items()]
    yield "command: " + _broken([*assignments, *_quoted(_in_venv(checked))], len(assignments) + 1, image=context.image)
    if any(FILES in word for word in plan.command):
        yield f"{FILES} is a folder that is made when it is launched; its files:"


def _without_command(checked: CheckedBackend) -> Iterator[str]:
    mode = context_mode(checked.spec, checked.context)
    if mode == "external" and checked.context.url:
        yield f"command: none, the server runs already at {checked.context.url}"
    else:
        yield "command: none, this engine is not launched by a command line"
    for name, value in checked.plan.keywords.items():
        yield f"keyword {name}: {MASK if is_secret_key(name) else repr(value)}"


def _program(checked: CheckedBackend) -> str:
    context, command = checked.context, checked.plan.command
    inherited = {**inherited_environment(os.environ), **context.environment}
    path = environment_of_venv(inherited, context.venv).get("PATH", os.defpath)
    try:
        return program_of(context, command, path=path)
    except StartFailed as error:
        return f"not found ({str(error).splitlines()[0]})"


def _in_venv(checked: CheckedBackend) -> Sequence[str]:
    context, command = checked.context, checked.plan.command
    if context.venv is None or not isinstance(context.options, ServerOptions):
        return command
    if context.options.executable or runs_container(context, command) or os.sep in command[0]:
        return command
    return (str(Path(context.venv) / "bin" / command[0]), *command[1:])


def _quoted(command: Sequence[str]) -> list[str]:
    return [shlex.quote(word) for word in command]


def _broken(words: Sequence[str], num_first: int, *, image: str | None) -> str:
    """On one line where it fits, else a line for each flag with its values, and for the image."""
    whole = " ".join(words)
    if len(whole) <= _ONE_LINE:
        return whole
    lines = [" ".join(words[:num_first])]
    for word in words[num_first:]:
        if word.startswith("-") or word == image:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return " \\\n  ".join(lines)
