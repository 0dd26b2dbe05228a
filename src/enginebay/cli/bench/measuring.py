"""The ordinary journey: plan, measure backend by backend, judge, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from enginebay.cli.bench.flags import ResultFlags
from enginebay.cli.bench.interrupting import run_until_interrupted
from enginebay.cli.bench.live import live_view
from enginebay.cli.bench.planning import bench_settings_of, planning_for
from enginebay.cli.bench.reporting import judged, report_on
from enginebay.cli.bench.resuming import kept_starts
from enginebay.clock import Clock, MonotonicClock
from enginebay.config.bench import BenchConfig
from enginebay.config.models import Config
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.measurement import Subject
from enginebay.loadtest.plan import Plan
from enginebay.loadtest.replay import origin_of
from enginebay.loadtest.result import Origin, load_result
from enginebay.loadtest.result_folder import RESULT, demand_free, make_free
from enginebay.loadtest.schedule import Speed
from enginebay.loadtest.session import Bench
from enginebay.loadtest.subjects import subject_of
from enginebay.loadtest.tokenizer import TextTokenizer
from enginebay.report.write import remove_reports
from enginebay.verdict.certificate.certify import certify


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is measured, from wherever it was told."""

    subjects: Sequence[Subject]
    """In the order in which they are set side by side."""
    plan: Plan
    tokenizer: TextTokenizer | None
    settings: BenchConfig
    """The `bench:` section with what the command line says instead."""
    folder: Path
    origin: Origin | None = None
    """The config, so that the result can be measured again."""
    speeds: Mapping[str, Speed] = field(default_factory=dict[str, Speed])
    """Of backends that were asked already, by label: for the first estimate of the time."""


def job_of_config(
    config: Config,
    path: Path,
    names: Sequence[str],
    *,
    settings: BenchConfig,
    folder: Path,
    clock: Clock,
    speeds: Mapping[str, Speed],
) -> Job:
    """names: entries of the config, or kinds. Starts nothing."""
    subjects = [subject_of(config, path, name, clock=clock) for name in names]
    with planning_for(config, settings, names=names, clock=clock) as planning:
        return Job(
            subjects=subjects,
            plan=planning.plan(settings),
            tokenizer=planning.tokenizer,
            settings=settings,
            folder=folder,
            origin=origin_of(path),
            speeds=speeds,
        )


def measure(job: Job, flags: ResultFlags, *, console: Console, clock: Clock | None = None) -> int:
    """Returns the exit code."""
    settings, environment = bench_settings_of(job.settings), describe_environment()
    kept = None
    if flags.resume:
        kept = kept_starts(job.folder, job.plan, job.subjects, settings=settings, environment=environment)
        console.print(f"{len(kept.starts)} starts are kept", highlight=False)
    elif flags.overwrite:
        make_free(job.folder, RESULT)
    else:
        demand_free(job.folder, RESULT)
    remove_reports(job.folder)  # they tell of the results that are replaced now
    console.print(f"{job.plan.workload} [dim]· plan {job.plan.sha256[:12]}[/]", highlight=False)
    num_starts = len(job.subjects) * settings.num_starts - len(kept.starts if kept else ())
    with live_view(console, num_runs=num_starts * len(job.plan.loads_of_start(0))) as view:
        measurement = Bench(
            job.plan,
            job.subjects,
            out=job.folder,
            clock=clock or MonotonicClock(),
            watcher=view,
            environment=environment,
            settings=settings,
            tokenizer=job.tokenizer,
            kept=kept,
            origin=job.origin,
            speeds=job.speeds,
            on_estimate=view.estimate,
        )
        interruption = run_until_interrupted(measurement)
    certify(job.folder)
    judged(load_result(job.folder), job.folder, tokenizer=job.tokenizer)
    exit_code = report_on(job.folder, flags, console=console)
    if interruption is not None:
        raise interruption
    return exit_code
