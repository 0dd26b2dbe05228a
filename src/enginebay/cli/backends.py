"""`enginebay backends`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from enginebay.errors import ConfigError, PluginError
from enginebay.plugins import InstalledBackend, find_backend, list_backends


def backends(
    *,
    check: Annotated[
        Path | None, Parameter(help="Config file: start its backend and measure what that can do.", name="--check")
    ] = None,
    backend: Annotated[
        list[str] | None,
        Parameter(help="With --check: an entry of the config, or a kind; repeat it. Else its own.", negative=""),
    ] = None,
    all_: Annotated[
        bool, Parameter(name="--all", help="With --check: every backend of the config.", negative="")
    ] = False,
    out: Annotated[
        Path | None, Parameter(help="With --check: file to save to, or a folder of results: its reports show it.")
    ] = None,
    time_limit_factor: Annotated[
        float | None, Parameter(help="With --check: of each probe's time limit, else 1; more for a slow machine.")
    ] = None,
) -> int:
    """List the installed backends: kind, distribution, modes, and what each was checked against.

    With --check, what a backend can do is measured on the running engine instead: the capability matrix. Exit code 1
    where a probe failed.
    """
    if check is not None:
        from enginebay.cli.backends_check import check_backends

        return check_backends(
            check,
            names=backend,
            is_all=all_,
            out=out,
            time_limit_factor=1.0 if time_limit_factor is None else time_limit_factor,
            console=Console(),
        )
    if backend or all_ or out is not None or time_limit_factor is not None:
        raise ConfigError("--backend, --all, --out and --time-limit-factor go with --check", expected="--check CONFIG")
    _list(Console())
    return 0


def _list(console: Console) -> None:
    """One that cannot be used is listed as broken, with the reason."""
    table = Table()
    for heading in ("kind", "distribution", "modes", "evidence"):
        table.add_column(heading, overflow="fold")  # an ellipsis would hide the reason
    for backend in list_backends():
        table.add_row(*_row(backend))
    console.print(table)


def _row(backend: InstalledBackend) -> tuple[str, str, str, str]:
    distributions = ", ".join(map(_with_version, backend.distributions))
    try:
        spec = find_backend(backend.kind)
    except PluginError as error:
        return backend.kind, distributions, "[red]broken[/red]", escape(str(error))
    return backend.kind, distributions, ", ".join(spec.modes), escape(spec.evidence)


def _with_version(distribution: str) -> str:
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution
