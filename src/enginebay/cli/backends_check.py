"""`enginebay backends --check`: probe the backends of a config, and print and save the capability matrix."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import enginebay
from enginebay.cli.event_loop import new_event_loop
from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.configured import configured_backend, entry_names
from enginebay.errors import ConfigError, EngineBayError
from enginebay.guard import GuardedBackend
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.files import write_atomically
from enginebay.probes import PROBES, run_probes
from enginebay.probes.matrix import Row, check_rows, feature_rows, heading, problems
from enginebay.probes.saved import FILE_NAME, SCHEMA_VERSION, ProbedBackend, ProbeReport, encode_report, probed_backend
from enginebay.report.numbers import size

_COLOURS = {"yes": "green", "no": "dim", "failed": "bold red", "unknown": "yellow"}


def check_backends(
    config_path: Path,
    *,
    names: Sequence[str] | None,
    is_all: bool,
    out: Path | None,
    time_limit_factor: float,
    console: Console,
) -> int:
    """Raises ConfigError before anything starts. Returns the exit code."""
    if names and is_all:
        raise ConfigError("--backend and --all exclude each other")
    if time_limit_factor <= 0:
        raise ConfigError(f"found {time_limit_factor:g}", path="--time-limit-factor", expected="more than 0")
    config = load_config(config_path)
    backends = _built(config, entry_names(config) if is_all else names or (config.backend,))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        probed = [runner.run(_probed(backend, config, time_limit_factor, console)) for backend in backends]
    report = _report(probed)
    _print(report, console)
    if out is not None:
        path = out if out.suffix == ".json" else out / FILE_NAME
        write_atomically(path, encode_report(report))
        console.print(f"saved to {escape(str(path))}", highlight=False, soft_wrap=True)
    return 1 if any(backend.has_failed for backend in report.backends) else 0


def _built(config: Config, names: Sequence[str]) -> list[GuardedBackend]:
    return [configured_backend(config, name) for name in dict.fromkeys(names)]


async def _probed(backend: GuardedBackend, config: Config, time_limit_factor: float, console: Console) -> ProbedBackend:
    """One that does not start is a finding, and the next one is probed all the same."""
    console.print(f"[bold]{escape(backend.info.name)}[/bold]: starting", highlight=False)
    redact = config.source.redact
    try:
        async with backend:
            with console.status(f"{len(PROBES)} probes") as status:
                results = await run_probes(
                    backend,
                    time_limit_factor=time_limit_factor,
                    on_result=lambda result: status.update(escape(result.name)),
                )
    except EngineBayError as error:
        return probed_backend(backend.info, (), start_error=redact(str(error)))
    return probed_backend(backend.info, [replace(result, detail=redact(result.detail)) for result in results])


def _report(probed: Sequence[ProbedBackend]) -> ProbeReport:
    environment = describe_environment()
    return ProbeReport(
        schema_version=SCHEMA_VERSION,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        enginebay_version=enginebay.__version__,
        hardware=f"{environment.cpu}, {environment.num_cores} cores, {size(environment.memory_bytes)} memory",
        backends=tuple(probed),
    )


def _print(report: ProbeReport, console: Console) -> None:
    if report.is_simulated:
        console.print("[bold yellow]SIMULATED[/bold yellow]: what is so labelled is a simulator, and no engine.")
    _print_table("what it can do, measured", feature_rows(report), report, console)
    _print_table("what every backend must pass", check_rows(report), report, console)
    for problem in problems(report):
        console.print(
            f"[red]{escape(problem.backend)}[/red]: {escape(problem.check)}: {escape(problem.detail)}",
            highlight=False,
            soft_wrap=True,
        )


def _print_table(title: str, rows: Sequence[Row], report: ProbeReport, console: Console) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for backend in report.backends:
        table.add_column(escape(heading(backend)), overflow="fold")
    for row in rows:
        cells = (f"[{_COLOURS[cell.verdict]}]{escape(cell.text)}[/]" for cell in row.cells)
        table.add_row(escape(row.title), *cells)
    console.print(table)
