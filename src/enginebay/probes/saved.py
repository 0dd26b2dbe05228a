"""What probes found, as it is kept in a file: `probes.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from enginebay.errors import LoadTestError
from enginebay.probes.probe import Outcome, ProbeResult
from enginebay.types import BackendInfo

SCHEMA_VERSION = 1
FILE_NAME = "probes.json"


class SavedResult(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    outcome: Outcome
    detail: str = ""
    feature: str | None = None
    duration_s: float = 0.0


class ProbedBackend(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kind: str
    model: str
    engine_version: str | None
    simulated: bool
    declared_features: tuple[str, ...]
    results: tuple[SavedResult, ...]
    start_error: str | None = None
    """Why nothing was probed."""

    @property
    def has_failed(self) -> bool:
        return self.start_error is not None or any(result.outcome is Outcome.FAILED for result in self.results)


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: int
    created_at: str
    """ISO 8601, UTC."""
    enginebay_version: str
    hardware: str
    """In words: processor, cores, memory."""
    backends: tuple[ProbedBackend, ...]

    @property
    def is_simulated(self) -> bool:
        return any(backend.simulated for backend in self.backends)


def probed_backend(
    info: BackendInfo, results: Sequence[ProbeResult], *, start_error: str | None = None
) -> ProbedBackend:
    return ProbedBackend(
        name=info.name,
        kind=info.kind,
        model=info.model,
        engine_version=info.engine_version,
        simulated=info.simulated,
        declared_features=tuple(sorted(feature.value for feature in info.capabilities.features)),
        results=tuple(_saved(result) for result in results),
        start_error=start_error,
    )


def _saved(result: ProbeResult) -> SavedResult:
    return SavedResult(
        name=result.name,
        outcome=result.outcome,
        detail=result.detail,
        feature=None if result.feature is None else result.feature.value,
        duration_s=round(result.duration_s, 6),
    )


def encode_report(report: ProbeReport) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def load_probe_report(path: Path) -> ProbeReport | None:
    """None where there is no such file. Raises LoadTestError for one that cannot be used."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        report = msgspec.json.decode(content, type=ProbeReport)
    except msgspec.DecodeError as error:
        raise LoadTestError(f"{path}: is no result of `enginebay backends --check`: {error}") from error
    if report.schema_version != SCHEMA_VERSION:
        raise LoadTestError(f"{path}: schema_version is {report.schema_version}, this version reads {SCHEMA_VERSION}")
    return report
