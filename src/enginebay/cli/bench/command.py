"""`enginebay bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from enginebay.cli.bench.interrupting import run_until_interrupted
from enginebay.cli.bench.planning import bench_settings_of, make_bench_plan, overridden_settings
from enginebay.cli.bench.progress import Progress
from enginebay.clock import MonotonicClock
from enginebay.config.loader import load_config
from enginebay.errors import ConfigError
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.result import load_result
from enginebay.loadtest.session import Bench
from enginebay.loadtest.subjects import subject_of
from enginebay.report.data import load_report
from enginebay.report.terminal import print_runs
from enginebay.report.write import remove_reports, write_reports

INVALID = 3


def bench(
    config: Annotated[Path, Parameter(help="Config file; its `bench:` section is the load.")],
    /,
    *,
    backend: Annotated[
        list[str] | None,
        Parameter(help="An entry of the config, or a kind; repeat it to compare. Else the config's own.", negative=""),
    ] = None,
    out: Annotated[Path | None, Parameter(help="Folder of the results; else out/NAME-OF-THE-CONFIG.")] = None,
    users: Annotated[
        list[int] | None, Parameter(help="Closed loop: users that each wait for their answer.", negative="")
    ] = None,
    rate: Annotated[
        list[float] | None, Parameter(help="Open loop: requests a second, sent whatever the answers.", negative="")
    ] = None,
    arrivals: Annotated[
        Literal["poisson", "constant"] | None, Parameter(help="Of an open loop; else the config's, else poisson.")
    ] = None,
    requests: Annotated[int | None, Parameter(help="Requests of each run.")] = None,
    seed: Annotated[int | None, Parameter(help="Of prompts, lengths and arrivals.")] = None,
) -> int:
    """Measure backends one after the other under identical load, and write what was found.

    Ctrl-C and SIGTERM keep what was measured until then and mark it partial.
    """
    loaded = load_config(config)
    settings = overridden_settings(
        loaded.bench, users=users, rate=rate, arrivals=arrivals, requests=requests, seed=seed
    )
    names = _distinct(backend or [loaded.backend])
    clock = MonotonicClock()
    subjects = [subject_of(loaded, config, name, clock=clock) for name in names]
    plan, tokenizer = make_bench_plan(loaded, settings, name=names[0])
    folder = out or Path("out") / config.stem
    remove_reports(folder)  # they tell of the results that are replaced now
    console = Console()
    console.print(f"{plan.workload} [dim]· plan {plan.sha256[:12]}[/]", highlight=False)
    with Progress(console, num_runs=len(names) * len(plan.loads) * settings.starts) as progress:
        measurement = Bench(
            plan,
            subjects,
            out=folder,
            clock=clock,
            watcher=progress,
            environment=describe_environment(),
            settings=bench_settings_of(settings),
            tokenizer=tokenizer,
        )
        interruption = run_until_interrupted(measurement)
    result = load_result(folder)
    _report(folder, console)
    if interruption is not None:
        raise interruption
    return 0 if all(run.valid for run in result.runs) else INVALID


def _distinct(names: list[str]) -> list[str]:
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"--backend {sorted(repeated)[0]} is given twice", expected="each name once")
    return names


def _report(folder: Path, console: Console) -> None:
    report = load_report(folder)
    print_runs(report, console)
    for path in write_reports(report, folder):
        console.print(f"{path.name:12} {path}", highlight=False, soft_wrap=True)
