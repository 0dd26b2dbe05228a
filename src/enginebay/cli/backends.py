"""`enginebay backends`."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from enginebay.errors import PluginError
from enginebay.plugins import InstalledBackend, find_backend, list_backends


def backends() -> None:
    """List the installed backends: kind, distribution, modes, and what each was checked against.

    One that cannot be used is listed as broken, with the reason.
    """
    table = Table()
    for heading in ("kind", "distribution", "modes", "evidence"):
        table.add_column(heading, overflow="fold")  # an ellipsis would hide the reason
    for backend in list_backends():
        table.add_row(*_row(backend))
    Console().print(table)


def _row(backend: InstalledBackend) -> tuple[str, str, str, str]:
    distributions = ", ".join(backend.distributions)
    try:
        spec = find_backend(backend.kind)
    except PluginError as error:
        return backend.kind, distributions, "[red]broken[/red]", escape(str(error))
    return backend.kind, distributions, ", ".join(spec.modes), escape(spec.evidence)
