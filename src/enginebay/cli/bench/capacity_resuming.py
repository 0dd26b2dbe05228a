"""`bench --capacity --resume`: which probes of an earlier search count, and why none may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from enginebay.cli.bench.resuming import newcomers, other_machine, other_modes
from enginebay.config.bench import BenchConfig
from enginebay.errors import NotComparable
from enginebay.loadtest.capacity.kept import KeptSearches, read_kept_searches
from enginebay.loadtest.capacity.result import CapacityResult
from enginebay.loadtest.capacity.session import Searched
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.measurement import Subject
from enginebay.loadtest.replay import differences_of

NOT_OF_PROBES = frozenset(
    {
        "users",
        "rate_rps",
        "arrivals",
        "num_requests",
        "starts",
        "equivalence_margin",
        "start_timeout_s",
        "logprob_prompts",
    }
)
"""Keys of `bench:` that a search replaces or does not heed; more starts than before may be asked for."""


def asked_of_probes(settings: BenchConfig) -> dict[str, Any]:
    """By the dotted names of the keys."""
    return dict(_flat(settings.model_dump(mode="json", exclude=set(NOT_OF_PROBES))))


def kept_searches(
    folder: Path, searched: Searched, subjects: Sequence[Subject], *, environment: Environment
) -> KeptSearches:
    """Raises NotComparable with all that differs, LoadTestError where there is nothing to go on with."""
    before, kept = read_kept_searches(folder)
    differences = [
        *_other_search(before, searched),
        *other_machine(before.environment, environment),
        *differences_of(before.subjects, before.configured_settings, subjects),
        *other_modes(before.subjects, subjects),
        *newcomers(before.subjects, subjects),
    ]
    if differences:
        raise NotComparable(
            f"{folder} was searched otherwise, so that --resume cannot go on: {'; '.join(differences)}. "
            "Search into another folder with --out"
        )
    return kept


def _other_search(before: CapacityResult, now: Searched) -> Iterator[str]:
    if before.asked is None:
        yield "nothing tells what its probes asked: it is older than this --resume"
        return
    was = {"model": before.model, **before.asked}
    is_now = {"model": now.model, **now.asked}
    for name in sorted(was.keys() | is_now.keys()):
        if was.get(name) != is_now.get(name):
            yield f"{name} was {was.get(name)}, now {is_now.get(name)}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
