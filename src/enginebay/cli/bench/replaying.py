"""`bench --replay RESULT`: the same plan on the same weights, images and settings, measured once more."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from enginebay.cli.bench.flags import LoadFlags, ResultFlags
from enginebay.cli.bench.measuring import Job, measure
from enginebay.cli.bench.planning import overridden_settings, tokenizer_of
from enginebay.cli.bench.reporting import check_result_flags
from enginebay.clock import Clock
from enginebay.config.loader import load_config
from enginebay.errors import ConfigError
from enginebay.loadtest.replay import demand_same_subjects, origin_of, read_replay
from enginebay.loadtest.subjects import subject_of


def replay_result(
    result: Path, config: Path | None, *, load: LoadFlags, flags: ResultFlags, clock: Clock, console: Console
) -> int:
    """config: where that of the result has been moved to. Returns the exit code."""
    if beyond := sorted(load.given.keys() - {"starts"}):
        raise ConfigError(f"--replay takes the load of the result: {beyond[0]} cannot be given", expected="--starts")
    replay = read_replay(result, config=config)
    loaded = load_config(replay.config)
    subjects = [subject_of(loaded, replay.config, label, clock=clock) for label in replay.labels]
    demand_same_subjects(replay, subjects)
    check_result_flags(flags, num_backends=len(subjects))
    folder = flags.out or _beside(result)
    given = {"starts": load.starts or replay.result.num_starts, "slo": _levels(replay.result.slo)}
    settings = overridden_settings(loaded.bench, given)
    tokenizer = tokenizer_of(loaded, settings, name=replay.labels[0])
    job = Job(
        subjects=subjects,
        plan=replay.plan,
        tokenizer=tokenizer,
        settings=settings,
        folder=folder,
        origin=origin_of(replay.config),
    )
    exit_code = measure(job, flags, console=console, clock=clock)
    console.print(f"both results: enginebay compare {result} {folder}", highlight=False, soft_wrap=True, markup=False)
    return exit_code


def _beside(result: Path) -> Path:
    """out/demo -> out/demo-again"""
    folder = (result if result.is_dir() else result.parent).resolve()
    return folder.with_name(f"{folder.name}-again")


def _levels(slo: object) -> dict[str, float]:
    names = ("ttft_s", "tpot_s", "e2e_s")
    return {name: value for name in names if (value := getattr(slo, name)) is not None}
