"""`bench --replay RESULT`: the same plan on the same weights, images and settings, measured once more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from enginebay.cli.bench.flags import LoadFlags, ResultFlags
from enginebay.cli.bench.folder import demand_usable
from enginebay.cli.bench.measuring import Job, measure
from enginebay.cli.bench.planning import overridden_settings, tokenizer_of
from enginebay.cli.bench.reporting import check_result_flags
from enginebay.clock import Clock
from enginebay.config.loader import load_config
from enginebay.errors import ConfigError
from enginebay.loadtest.measurement import Subject
from enginebay.loadtest.replay import Replay, demand_same_subjects, origin_of, read_replay
from enginebay.loadtest.result_folder import RESULT
from enginebay.loadtest.subjects import subject_of
from enginebay.verdict.comparison.phrases import listed


def replay_result(
    result: Path,
    config: Path | None,
    *,
    folder: Path,
    load: LoadFlags,
    flags: ResultFlags,
    clock: Clock,
    console: Console,
) -> int:
    """config: where that of the result has been moved to. folder: of the new result. Returns the exit code."""
    if beyond := sorted(load.given.keys() - {"starts"}):
        raise ConfigError(f"--replay takes the load of the result: {beyond[0]} cannot be given", expected="--starts")
    demand_usable(folder, RESULT, flags)
    replay = read_replay(result, config=config)
    loaded = load_config(replay.config)
    subjects = [subject_of(loaded, replay.config, label, clock=clock) for label in replay.labels]
    demand_same_subjects(replay, subjects)
    check_result_flags(flags, num_backends=len(subjects))
    _warn_of_memory(subjects, console)
    starts = replay.result.num_starts if load.starts is None else load.starts
    _demand_prompts(replay, subjects, starts=starts)
    given = {"starts": starts, "slo": _levels(replay.result.slo)}
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


def _warn_of_memory(subjects: Sequence[Subject], console: Console) -> None:
    if kept_up := [subject.label for subject in subjects if not subject.is_restarted]:
        console.print(
            f"{listed(kept_up)} was not started by us: unless it was started anew since, it may remember these prompts",
            highlight=False,
            markup=False,
        )


def _demand_prompts(replay: Replay, subjects: Sequence[Subject], *, starts: int) -> None:
    """A server that runs on remembers: each of its starts needs prompts of its own, and the plan cannot be added to."""
    num_sets = len({load.start_index for load in replay.plan.loads})
    if starts > num_sets and not all(subject.is_restarted for subject in subjects):
        raise ConfigError(f"--starts {starts}: the plan has prompts for {num_sets}", expected="so many or fewer")


def folder_beside(result: Path) -> Path:
    """out/demo -> out/demo-again"""
    folder = (result if result.is_dir() else result.parent).resolve()
    return folder.with_name(f"{folder.name}-again")


def _levels(slo: object) -> dict[str, float]:
    names = ("ttft_s", "tpot_s", "e2e_s")
    return {name: value for name in names if (value := getattr(slo, name)) is not None}
