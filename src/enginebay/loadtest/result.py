"""result.json: what a load test found, in one file with a version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.client_health import ClientHealth
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.files import write_atomically
from enginebay.loadtest.metrics import Metrics, ServiceLevels
from enginebay.loadtest.plan import Load
from enginebay.loadtest.records import RunKey

SCHEMA_VERSION = 1

Status = Literal["complete", "partial"]


class InvalidReason(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    detail: str


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What ended the measuring of a backend before its runs were done."""

    label: str
    load: Load | None
    """The load it failed under; None before the first, so that the backend did not start."""
    error_class: str
    message: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One replay of one load of the plan on one start of one backend."""

    backend: str
    """Its kind."""
    label: str
    """Its name in the config."""
    load: Load
    start_index: int
    repeat: int
    status: Status
    transport: str
    """Runs of different transports are never compared."""
    simulated: bool
    model: str
    engine_version: str | None
    configured_settings: dict[str, object]
    effective_settings: dict[str, object]
    """What the engine said that it ran with. `unknown` stands for a setting that was asked for and is not told."""
    valid: bool
    invalid_reasons: list[InvalidReason]
    client_cpu_ratio: float
    """CPU time of the load test's own process / time of the run: near 1 the client is the limit."""
    metrics: Metrics
    gpu_memory_used_bytes: tuple[int, ...] = ()
    """Of each GPU of the load test's machine when the run ended and its engine was up, by whoever used it."""
    client: ClientHealth = ClientHealth()
    """How the load test's own processes fared in it."""

    @property
    def key(self) -> RunKey:
        return RunKey(label=self.label, load=self.load, start_index=self.start_index, repeat=self.repeat)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION
    status: Status
    created_at: str
    """Wall-clock time at the end, ISO 8601 in UTC; nothing is computed from it."""
    plan_sha256: str
    model: str
    workload: str
    seed: int
    slo: ServiceLevels
    environment: Environment
    runs: Sequence[Run]
    failures: Sequence[Failure] = ()


def save_result(result: Result, path: Path) -> None:
    write_atomically(path, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def load_result(path: Path) -> Result:
    """`path`: result.json or the directory that holds it."""
    file = path / "result.json" if path.is_dir() else path
    try:
        result = msgspec.json.decode(file.read_bytes(), type=Result)
    except OSError as error:
        raise LoadTestError(f"{file}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{file}: is not a result of `enginebay bench`: {error}") from error
    if result.schema_version != SCHEMA_VERSION:
        raise LoadTestError(
            f"{file}: has schema version {result.schema_version}, this EngineBay reads {SCHEMA_VERSION}: measure again"
        )
    return result
