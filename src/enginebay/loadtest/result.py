"""result.json: what a load test found, in one file with a version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.client_health import ClientHealth
from enginebay.loadtest.engine_figures import EngineFigures
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.files import load_struct, save_struct
from enginebay.loadtest.metrics import Metrics, ServiceLevels
from enginebay.loadtest.plan import Load, PromptCounts
from enginebay.loadtest.records import RunKey
from enginebay.loadtest.validity.unchecked import Unchecked

SCHEMA_VERSION = 2
DEFAULT_MARGIN = 0.05

MADE_GOOD = " (this start was measured again, to its end)"
"""Of a failure, wherever it is told."""

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
    start_index: int | None = None
    is_made_good: bool = False
    """That start was measured to its end later, by `bench --resume`. It failed all the same."""


class Conduct(msgspec.Struct, frozen=True, kw_only=True):
    """How it was measured, beside what the plan and the backends say: with another one, figures are others."""

    request_timeout_s: float | None
    percentiles: tuple[float, ...]
    """That each run must have enough requests for."""
    client_processes: int | None
    """None: as few as can make the load."""
    sample_interval_s: float
    logprob_prompts: int


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a result was measured from, so that it can be measured again."""

    config: str
    """Path, as it was given."""
    config_sha256: str
    """Of the file's bytes: secrets may stand in it, so that no copy is kept."""


class MeasuredSubject(msgspec.Struct, frozen=True, kw_only=True):
    """A backend as it was started; what is not known is None."""

    label: str
    backend: str
    """Its kind."""
    image: str | None = None
    """Of a container, with its tag or digest."""
    model: str | None = None
    """As the config says it."""
    weights: str | None = None
    """Fingerprint of the model's files: names, sizes, and what stands in them."""
    is_restarted: bool = True
    """False of a server that others run: its `starts` are rounds on one and the same."""
    url: str | None = None
    """Of such a server, without a password that may stand in it."""


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
    unchecked: list[Unchecked] = []
    """What could not be looked at, for want of anything to look at: it does not make the run invalid."""
    client_cpu_ratio: float
    """CPU time of the load test's own process / time of the run: near 1 the client is the limit."""
    metrics: Metrics
    gpu_memory_used_bytes: tuple[int, ...] = ()
    """Of each GPU of the load test's machine when the run ended and its engine was up, by whoever used it."""
    client: ClientHealth = ClientHealth()
    """How the load test's own processes fared in it."""
    engine: EngineFigures = EngineFigures()
    """What the engine told of its own work in it."""
    order: int = 0
    """Of its start among all starts of the load test, in time."""
    start_duration_s: float | None = None
    """How long its backend took to be ready."""

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
    num_starts: int = 1
    """Of each backend, as asked for."""
    equivalence_margin: float = DEFAULT_MARGIN
    """Ratios within 1 / (1 + margin) and 1 + margin count as equivalent."""
    subjects: Sequence[MeasuredSubject] = ()
    """In the order in which they were asked for; the first is what the others are set against."""
    origin: Origin | None = None
    prompt_counts: PromptCounts | None = None
    """Who counted the tokens of the prompts before they were sent; None in a result that does not tell."""
    conduct: Conduct | None = None
    """None of a result that was saved before this was kept."""
    certificate_sha256: str | None = None
    """Of certificate.json beside it: that each backend was sent the same load. None where nobody has audited it."""


def save_result(result: Result, path: Path) -> None:
    save_struct(result, path)


def load_result(path: Path) -> Result:
    """`path`: result.json or the directory that holds it."""
    file = path / "result.json" if path.is_dir() else path
    result = load_struct(file, Result, what="a result of `enginebay bench`")
    if result.schema_version != SCHEMA_VERSION:
        raise LoadTestError(
            f"{file}: has schema version {result.schema_version}, this EngineBay reads {SCHEMA_VERSION}: measure again"
        )
    return result
