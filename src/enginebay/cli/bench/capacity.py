"""`bench CONFIG --capacity`: the highest rate at which the service levels hold, for each backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from enginebay.cli.bench.capacity_resuming import asked_of_probes, kept_searches
from enginebay.cli.bench.flags import ResultFlags
from enginebay.cli.bench.interrupting import run_until_interrupted
from enginebay.cli.bench.live import live_view
from enginebay.cli.bench.planning import Planning, bench_settings_of, planning_for
from enginebay.clock import Clock
from enginebay.config.bench import BenchConfig
from enginebay.config.models import Config
from enginebay.config.overriding import overridden
from enginebay.config.resolution import resolve_backend
from enginebay.errors import ConfigError, LoadTestError
from enginebay.loadtest.capacity.energy import meter_for
from enginebay.loadtest.capacity.levels import CapacityLevels
from enginebay.loadtest.capacity.result import FILE_NAME, CapacityResult, load_capacity
from enginebay.loadtest.capacity.rows import (
    CAPACITY_HEADER,
    PROBE_HEADER,
    capacity_rows,
    capacity_sentences,
    probe_rows,
)
from enginebay.loadtest.capacity.session import CapacityBench, Searched
from enginebay.loadtest.capacity.start_search import CapacitySettings, PlanProbe, SearchTools
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.plan import PlannedLoad
from enginebay.loadtest.subjects import subject_of
from enginebay.report.capacity_report import write_capacity
from enginebay.report.data import load_report
from enginebay.report.write import write_reports

FOUND, NOT_FOUND = 0, 3
SEEDS_OF_A_SESSION = 1_000_003
"""Far more than a search has probes: one that goes on repeats no prompt of the probe that was cut short."""


def search_capacity(
    config: Config,
    path: Path,
    names: Sequence[str],
    *,
    settings: BenchConfig,
    folder: Path,
    flags: ResultFlags,
    clock: Clock,
    console: Console,
) -> int:
    """Returns the exit code: 0 where the capacity of every backend was found."""
    search = _search_settings(settings)
    subjects = [subject_of(config, path, name, clock=clock) for name in names]
    console.print(f"Searching the highest rate with {search.levels}", highlight=False)
    environment = describe_environment()
    num_runs = len(subjects) * search.num_starts * search.max_probes
    with (
        planning_for(config, settings, names=names, clock=clock) as planning,
        live_view(console, num_runs=num_runs) as view,
    ):
        searched = Searched(
            model=planning.model,
            workload=settings.workload.kind,
            seed=settings.seed,
            asked=asked_of_probes(settings),
        )
        kept = None
        if flags.resume:
            kept = kept_searches(folder, searched, subjects, environment=environment)
            console.print(f"{kept.num_probes} probes are kept", highlight=False)
        bench = CapacityBench(
            subjects,
            SearchTools(
                plan_probe=_prober(planning, settings),
                settings=search,
                bench_settings=bench_settings_of(settings),
                clock=clock,
                watcher=view,
                meter_of=lambda label: meter_for(resolve_backend(config, label).entry.url),
            ),
            searched=searched,
            out=folder,
            kept=kept,
            replaces=flags.overwrite,
            environment=environment,
        )
        interruption = run_until_interrupted(bench)
    result = load_capacity(folder)
    _report(result, folder, console)
    if interruption is not None:
        raise interruption
    return FOUND if all(capacity.outcome == "found" for capacity in result.capacities) else NOT_FOUND


def _search_settings(settings: BenchConfig) -> CapacitySettings:
    search, slo = settings.capacity, settings.slo
    if slo.ttft_s is None and slo.tpot_s is None and slo.e2e_s is None:
        raise ConfigError(
            "--capacity needs levels that have to hold", path="bench.slo", expected="ttft_s, tpot_s or e2e_s in seconds"
        )
    levels = CapacityLevels(**slo.model_dump(), percentile=search.percentile, max_error_ratio=search.max_error_ratio)
    same = search.model_dump(include={"max_probes", "probe_s", "confidence", "precision", "start_rps"})
    return CapacitySettings(
        levels=levels, num_starts=settings.starts, price_per_hour=dict(search.price_per_hour), **same
    )


def _prober(planning: Planning, settings: BenchConfig) -> PlanProbe:
    """Each probe of each start is planned with a seed of its own: a server that runs on must know none of its prompts.

    Backends get the same, as far as they are asked for the same rates.
    """

    def plan_probe(rate_rps: float, num_requests: int, *, start_index: int, number: int, session: int) -> PlannedLoad:
        seed = settings.seed + 1 + start_index * settings.capacity.max_probes + number + session * SEEDS_OF_A_SESSION
        changes: dict[str, object] = {
            "users": None,
            "rate_rps": [rate_rps],
            "arrivals": {"kind": "poisson"},
            "num_requests": num_requests,
            "seed": seed,
            "starts": 1,
        }
        return planning.plan(overridden(settings, changes, path="bench")).loads[0]

    return plan_probe


# ---------------------------------------------------------------- what was found


def _report(result: CapacityResult, folder: Path, console: Console) -> None:
    for capacity in result.capacities:
        name = f"{capacity.label}, start {capacity.start_index + 1}"
        console.print(_table(f"{name}: probes", PROBE_HEADER, probe_rows(capacity)))
    console.print(_table("Capacity", CAPACITY_HEADER, capacity_rows(result)))
    for sentence in capacity_sentences(result):
        console.print(f"• {sentence}", highlight=False, markup=False)
    for path in [folder / FILE_NAME, *write_capacity(result, folder), *_reports_beside(folder, console)]:
        console.print(f"{path.name:13} {path}", highlight=False, soft_wrap=True, markup=False)


def _reports_beside(folder: Path, console: Console) -> list[Path]:
    """Those of a result in the same folder, which get a section on the capacity."""
    if not (folder / "result.json").exists():
        return []
    try:
        return write_reports(load_report(folder), folder)
    except LoadTestError as error:
        console.print(f"the reports in {folder} stay as they are: {error}", highlight=False, markup=False)
        return []


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in header:
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    return table
