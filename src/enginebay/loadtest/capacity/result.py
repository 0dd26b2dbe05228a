"""capacity.json: what a search found, every probe with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from enginebay.loadtest.capacity.energy import EnergyUse
from enginebay.loadtest.capacity.levels import CapacityLevels
from enginebay.loadtest.capacity.misses import Misses
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.files import load_struct, save_struct
from enginebay.loadtest.result import Failure, InvalidReason, MeasuredSubject, Status
from enginebay.loadtest.result_folder import CAPACITY

CAPACITY_VERSION = 1
FILE_NAME = CAPACITY
RECORDS, SAMPLES = "capacity-records.jsonl", "capacity-timeseries.jsonl"
"""Of the probes. A result in the same folder has records of its own, and a certificate that holds their hash."""

Outcome = Literal["found", "at least", "at most", "none"]
"""`at least`: every rate that was tried was borne. `at most`: none was. `none`: no probe counts."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One rate, tried once. `is_counted` is False for a probe that is invalid: it says nothing about the engine."""

    number: int
    rate_rps: float
    """As asked; arrivals are Poisson."""
    offered_rps: float
    """As chance would have it: requests that arrived over the time in which they did."""
    num_requests: int
    """Planned."""
    num_ended: int
    duration_s: float
    misses: dict[str, Misses]
    is_borne: bool
    is_saturated: bool
    """Given up, as it had failed and more came than was served."""
    served_rps: float
    """Finished in the later half."""
    good_ratio: float
    """Of the requests that count: those that met every level."""
    good_tokens_per_request: float
    """Output tokens of good requests / all requests that count."""
    is_counted: bool
    invalid_reasons: tuple[InvalidReason, ...] = ()
    energy: EnergyUse


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    low: float
    high: float
    confidence: float


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """At the capacity. None where it cannot be told, and `why_not` says why."""

    good_tokens_per_s: float | None = None
    price_per_hour: float | None = None
    cost_per_million_good_tokens: float | None = None
    gpu_joules_per_million_good_tokens: float | None = None
    cpu_joules_per_million_good_tokens: float | None = None
    why_not: dict[str, str] = {}
    """By the name of the field that is None."""
    probe_rps: float | None = None
    """The rate of the probe that tokens and energy were measured at: the nearest to the capacity that bore it."""


class BackendCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """Of one start of one backend."""

    label: str
    backend: str
    """Its kind."""
    start_index: int
    simulated: bool
    transport: str
    engine_version: str | None
    outcome: Outcome
    rate_rps: float | None
    """The estimate; of `at least` and `at most` the highest rate that was borne, or the lowest that was not."""
    interval_rps: Interval | None
    """Of chance within this start: what differs from start to start is not in it. None unless it was found."""
    why: str = ""
    """What ended the search before it had found anything."""
    status: Status = "complete"
    """`partial`: it was cut short, and may go on."""
    num_engine_starts: int = 1
    """On which the probes were made: more than one where a search that was cut short went on."""
    probes: tuple[Probe, ...]
    cost: Cost


class CapacityResult(msgspec.Struct, frozen=True, kw_only=True):
    version: int = CAPACITY_VERSION
    created_at: str
    """Wall-clock time, ISO 8601 in UTC; nothing is computed from it."""
    model: str
    workload: str
    seed: int
    levels: CapacityLevels
    environment: Environment
    capacities: tuple[BackendCapacity, ...]
    failures: tuple[Failure, ...] = ()
    asked: dict[str, Any] | None = None
    """The rest of what the probes depend on, by the names of `bench:`. None: saved before this was kept."""
    subjects: tuple[MeasuredSubject, ...] = ()
    configured_settings: dict[str, dict[str, Any]] = {}
    """By label."""
    num_sessions: int = 1
    """Commands that it was made by: each but the first went on with it."""


def save_capacity(result: CapacityResult, path: Path) -> None:
    save_struct(result, path)


def load_capacity(path: Path) -> CapacityResult:
    """`path`: capacity.json or the directory that holds it."""
    file = path / FILE_NAME if path.is_dir() else path
    return load_struct(file, CapacityResult, what="a result of `enginebay bench --capacity`")
