"""`enginebay plan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from enginebay.cli.plan_command import command_lines
from enginebay.cli.plan_tables import settings_table, side_by_side
from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.configured import CheckedBackend, check_backend, entry_names
from enginebay.errors import ConfigError, EngineBayError
from enginebay.plugins import context_mode, forecast_lines


def plan(
    config: Annotated[Path, Parameter(help="Config file.")],
    /,
    *,
    backend: Annotated[str | None, Parameter(help="Name of an entry, or a kind; else the config's own.")] = None,
    all_: Annotated[bool, Parameter(name="--all", help="Every backend, side by side.", negative="")] = False,
) -> int:
    """Show what each engine setting becomes for a backend, the command that would start it, and, where that can be
    known, which kernels it would compute with here and what memory it would take.

    A setting is mapped, approximated or unsupported. Exit code 2 where one is unsupported and not allowed by name.
    """
    if backend is not None and all_:
        raise ConfigError("--backend and --all exclude each other")
    loaded = load_config(config)
    console = Console(highlight=False)
    if all_:
        return _show_all(loaded, console)
    checked = check_backend(loaded, backend)
    _show_heading(checked, console)
    if checked.plan.outcomes:
        console.print(settings_table(checked, loaded.source.redact))
    else:
        console.print("no engine settings were given: every one is the engine's own default")
    _show_launch(loaded, checked)
    return 0 if _is_sound(checked) else 2


def _show_all(config: Config, console: Console) -> int:
    found: list[CheckedBackend] = []
    errors: list[str] = []
    for name in entry_names(config):
        try:
            found.append(check_backend(config, name))
        except EngineBayError as error:
            errors.append(f"error: {name}: {error}")
    for table in side_by_side(found, config.source.redact, width=console.width):
        console.print(table)
    _show_reasons(config, found, console)
    for checked in found:
        console.print()
        _show_heading(checked, console)
        _show_launch(config, checked)
    for error in errors:
        print(error, file=sys.stderr)
    return 0 if not errors and all(map(_is_sound, found)) else 2


def _show_reasons(config: Config, found: list[CheckedBackend], console: Console) -> None:
    for checked in found:
        for outcome in checked.plan.outcomes:
            if outcome.why:
                text = f"{checked.resolved.name}, {outcome.setting}: {outcome.outcome}, {outcome.why}"
                console.print(escape(config.source.redact(text)))


def _show_heading(checked: CheckedBackend, console: Console) -> None:
    spec, context = checked.spec, checked.context
    mode = context_mode(spec, context)
    console.print(f"[bold]{escape(checked.resolved.name)}[/bold] (kind {spec.kind}, mode {mode})")
    if spec.is_launched and mode != "external":
        console.print(f"compiled for {escape(spec.version(context) or 'the newest known release')}")


def _show_launch(config: Config, checked: CheckedBackend) -> None:
    """Never wrapped: a command can be copied from here."""
    redact = config.source.redact
    for line in command_lines(checked):
        print(redact(line))
    for name, content in checked.plan.files.items():
        print(redact(f"file {{files}}/{name}:"))
        print(redact("\n".join(f"  {line}" for line in content.splitlines())))
    for note in checked.plan.notes:
        print(redact(f"note: {note}"))
    for line in forecast_lines(checked.spec, checked.context):
        print(redact(line))


def _is_sound(checked: CheckedBackend) -> bool:
    return all(outcome.setting in checked.resolved.entry.allow_unsupported for outcome in checked.plan.unsupported)
