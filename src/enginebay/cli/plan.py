"""`enginebay plan`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from enginebay.backend import LaunchPlan, SettingOutcome
from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.config.secret import MASK, Secret, is_secret_key
from enginebay.configured import CheckedBackend, check_backend, entry_names
from enginebay.errors import ConfigError, EngineBayError

_COLOURS = {"mapped": "green", "approximated": "yellow", "unsupported": "red"}


def plan(
    config: Annotated[Path, Parameter(help="Config file.")],
    /,
    *,
    backend: Annotated[str | None, Parameter(help="Name of an entry, or a kind; else the config's own.")] = None,
    all_: Annotated[bool, Parameter(name="--all", help="Every backend of the config.", negative="")] = False,
) -> int:
    """Show what each engine setting becomes for a backend, and the command that would start it.

    A setting is mapped, approximated or unsupported. Exit code 2 where one is unsupported and not allowed by name.
    """
    if backend is not None and all_:
        raise ConfigError("--backend and --all exclude each other")
    loaded = load_config(config)
    if not all_:
        return 0 if _show(loaded, check_backend(loaded, backend)) else 2
    is_sound = True
    for name in entry_names(loaded):
        try:
            is_sound &= _show(loaded, check_backend(loaded, name))
        except EngineBayError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            is_sound = False
    return 0 if is_sound else 2


def _show(config: Config, checked: CheckedBackend) -> bool:
    """Print one backend's plan; False where it would be refused."""
    console = Console(highlight=False)
    resolved, redact = checked.resolved, config.source.redact
    console.print(f"[bold]{escape(resolved.name)}[/bold] (kind {checked.spec.kind})")
    allowed = resolved.entry.allow_unsupported
    if checked.plan.outcomes:
        table = Table()
        for heading in ("setting", "value", "outcome", "becomes", "why"):
            table.add_column(heading, overflow="fold")
        for outcome in checked.plan.outcomes:
            table.add_row(*(escape(redact(cell)) for cell in _cells(outcome, allowed)), style=_COLOURS[outcome.outcome])
        console.print(table)
    else:
        console.print("no engine settings were given: every one is the engine's own default")
    _show_command(checked.plan, config)
    return all(outcome.setting in allowed for outcome in checked.plan.unsupported)


def _cells(outcome: SettingOutcome, allowed: tuple[str, ...]) -> tuple[str, str, str, str, str]:
    value = MASK if isinstance(outcome.value, Secret) else str(outcome.value)
    is_allowed = outcome.outcome == "unsupported" and outcome.setting in allowed
    verdict = f"{outcome.outcome}, allowed" if is_allowed else outcome.outcome
    return outcome.setting, value, verdict, outcome.becomes, outcome.why


def _show_command(plan: LaunchPlan, config: Config) -> None:
    if not plan.command:
        print("command: none, this engine is not launched by a command line")
        return
    environment = [
        f"{key}={MASK if is_secret_key(key) else shlex.quote(value)}" for key, value in plan.environment.items()
    ]
    print("command: " + config.source.redact(" ".join([*environment, shlex.join(plan.command)])))
