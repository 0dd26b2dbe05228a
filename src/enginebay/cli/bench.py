"""`enginebay bench`."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from enginebay.cli.bench_progress import Progress
from enginebay.cli.event_loop import new_event_loop
from enginebay.clock import MonotonicClock
from enginebay.config.bench import BenchConfig
from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.config.overriding import overridden
from enginebay.config.resolution import resolve_backend
from enginebay.config.settings import EngineSettings
from enginebay.errors import ConfigError, EngineBayError, ModelNotFound
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.measurement import BenchSettings
from enginebay.loadtest.metrics import ServiceLevels
from enginebay.loadtest.plan import Load, Plan
from enginebay.loadtest.result import load_result
from enginebay.loadtest.session import Bench
from enginebay.loadtest.subjects import subject_of
from enginebay.loadtest.tokenizer import FileTokenizer, TextTokenizer
from enginebay.loadtest.workloads import UniformWorkload, make_plan
from enginebay.models.sources import resolve_model
from enginebay.plugins import DEFAULT_MODEL, MODEL_VARIABLE
from enginebay.report.data import load_report
from enginebay.report.terminal import print_runs
from enginebay.report.write import remove_reports, write_reports
from enginebay.types import SamplingParams

INVALID = 3
TERMINATED = 128 + signal.SIGTERM


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
    settings = _overridden(loaded.bench, users=users, rate=rate, arrivals=arrivals, requests=requests, seed=seed)
    names = _distinct(backend or [loaded.backend])
    clock = MonotonicClock()
    subjects = [subject_of(loaded, config, name, clock=clock) for name in names]
    plan, tokenizer = _plan(loaded, settings, name=names[0])
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
            settings=_bench_settings(settings),
            tokenizer=tokenizer,
        )
        interruption = _run_until_interrupted(measurement)
    result = load_result(folder)
    _report(folder, console)
    if interruption is not None:
        raise interruption
    return 0 if all(run.valid for run in result.runs) else INVALID


def _overridden(
    settings: BenchConfig,
    *,
    users: list[int] | None,
    rate: list[float] | None,
    arrivals: Literal["poisson", "constant"] | None,
    requests: int | None,
    seed: int | None,
) -> BenchConfig:
    """The `bench:` section with what the command line says instead. Users and a rate replace each other."""
    if users and rate:
        raise ConfigError("--users and --rate cannot be combined", expected="one of them")
    changes: dict[str, object] = {"num_requests": requests, "seed": seed, "users": users, "rate_rps": rate}
    changes = {key: value for key, value in changes.items() if value is not None}
    if users:
        changes |= {"rate_rps": None, "arrivals": "closed"}
    elif rate or arrivals:
        default = settings.arrivals if settings.arrivals != "closed" else "poisson"
        changes |= {"users": None, "arrivals": arrivals or default}
    return overridden(settings, changes, path="bench")


def _distinct(names: list[str]) -> list[str]:
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"--backend {sorted(repeated)[0]} is given twice", expected="each name once")
    return names


def _plan(config: Config, settings: BenchConfig, *, name: str) -> tuple[Plan, TextTokenizer]:
    """One plan for all backends; its lengths are counted by the tokenizer of the first one."""
    backend = resolve_backend(config, name)
    model = backend.model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
    tokenizer = FileTokenizer(_tokenizer_directory(backend.engine, model=model))
    workload = UniformWorkload(
        num_requests=settings.num_requests,
        min_input_tokens=settings.input_tokens.min,
        max_input_tokens=settings.input_tokens.max,
        min_output_tokens=settings.output_tokens.min,
        max_output_tokens=settings.output_tokens.max,
        num_warmup_requests=settings.warmup_requests,
    )
    sampling = SamplingParams(max_tokens=1, ignore_eos=settings.ignore_eos, **settings.sampling.model_dump())
    plan = make_plan(
        workload, _loads(settings), model=model, sampling=sampling, seed=settings.seed, tokenizer=tokenizer
    )
    return plan, tokenizer


def _tokenizer_directory(engine: EngineSettings, *, model: str) -> Path:
    try:
        return resolve_model(engine.tokenizer or model, revision=engine.revision)
    except ModelNotFound as error:
        raise ModelNotFound(f"prompts cannot be counted: {error}. {_HOW_TO_COUNT}") from error


_HOW_TO_COUNT = (
    "The load test counts with the model's tokenizer. For a server that gives its model a name of its own, set "
    "engine.tokenizer to the model or its directory, or keep it as `model` and give the name in "
    "options.served_model_name"
)


def _loads(settings: BenchConfig) -> tuple[Load, ...]:
    if settings.rate_rps:
        arrivals = settings.arrivals if settings.arrivals != "closed" else "poisson"
        return tuple(Load(rate=rate, arrivals=arrivals) for rate in settings.rate_rps)
    return tuple(Load(users=users) for users in settings.users or (1,))


def _bench_settings(settings: BenchConfig) -> BenchSettings:
    return BenchSettings(
        slo=ServiceLevels(**settings.slo.model_dump()),
        num_starts=settings.starts,
        request_timeout_s=settings.request_timeout_s,
    )


def _run_until_interrupted(measurement: Bench) -> BaseException | None:
    """What ended it early, if it left a result to report; raises what left none."""
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_run_until_terminated(measurement))
    except (KeyboardInterrupt, EngineBayError) as error:
        if not measurement.is_saved:
            raise
        return error


async def _run_until_terminated(measurement: Bench) -> SystemExit | None:
    """SIGTERM ends it as Ctrl-C does: what was measured is kept."""
    running = asyncio.ensure_future(measurement.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling() or not measurement.is_saved:
            raise  # Ctrl-C, which the runner turns into its own error
        return SystemExit(TERMINATED)
    return None


def _report(folder: Path, console: Console) -> None:
    report = load_report(folder)
    print_runs(report, console)
    for path in write_reports(report, folder):
        console.print(f"{path.name:12} {path}", highlight=False, soft_wrap=True)
