"""Whether a run did what its plan says. A run that did not is kept and shown, and marked invalid."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from enginebay.backends.launch.second_model import is_told_as
from enginebay.config.settings import EngineSettings
from enginebay.errors import ContextTooLong
from enginebay.loadtest.metrics import Metrics, output_tokens
from enginebay.loadtest.plan import PlannedLoad
from enginebay.loadtest.records import Record
from enginebay.loadtest.result import InvalidReason, Status
from enginebay.request_checks import check_request
from enginebay.types import BackendInfo

MAX_ERROR_RATIO = 0.01
UNKNOWN = "unknown"
"""In place of a setting that was asked for and that the engine does not tell."""


def check_plan_fits(planned_load: PlannedLoad, info: BackendInfo) -> None:
    """Raise RequestError before anything is sent, if the backend cannot do what the plan asks."""
    for planned in (*planned_load.warmup, *planned_load.requests):
        check_request(planned.to_request(f"check-{planned.index}"), info)
        num_tokens = planned.num_prompt_tokens + planned.sampling.max_tokens
        if info.max_model_len is not None and num_tokens > info.max_model_len:
            raise ContextTooLong(
                num_tokens=planned.num_prompt_tokens,
                limit=info.max_model_len,
                max_tokens=planned.sampling.max_tokens,
            )


def invalid_reasons(
    planned_load: PlannedLoad, records: Sequence[Record], metrics: Metrics, *, status: Status
) -> Iterator[InvalidReason]:
    if status == "partial":
        num_planned = len(planned_load.requests)
        yield InvalidReason(code="partial", detail=f"stopped after {metrics.num_requests} of {num_planned} requests")
    if metrics.num_errors > MAX_ERROR_RATIO * metrics.num_requests:
        detail = f"{metrics.num_errors} of {metrics.num_requests} requests failed; the bound is {MAX_ERROR_RATIO:.0%}"
        yield InvalidReason(code="errors", detail=detail)
    if metrics.num_missing_usage:
        detail = f"{metrics.num_missing_usage} answers came without the engine's count of tokens"
        yield InvalidReason(code="usage_missing", detail=detail)
    yield from _other_lengths(planned_load, [record for record in records if record.is_finished])


def effective_settings(configured: Mapping[str, object], told: Mapping[str, object]) -> dict[str, object]:
    """Each portable setting that was asked for, as the engine tells it or UNKNOWN; then what else it tells."""
    asked = [name for name, value in configured.items() if value is not None and name in EngineSettings.model_fields]
    return {**dict.fromkeys(asked, UNKNOWN), **told}


def settings_differ(
    configured: Mapping[str, object],
    effective: Mapping[str, object],
    *,
    approximated: Collection[str] = (),
) -> Iterator[InvalidReason]:
    """What both tell must be equal, or name the same model; `auto` leaves the choice to the engine, and so does None.

    approximated: settings that the plan turned into something near them; that the engine tells this is as planned.
    """
    told = {
        name: asked
        for name, asked in configured.items()
        if asked not in (None, "auto") and name not in approximated and effective.get(name, UNKNOWN) != UNKNOWN
    }
    others = [
        f"{name} is {effective[name]}, not {asked}"
        for name, asked in told.items()
        if effective[name] != asked and not is_told_as(name, asked, effective[name])
    ]
    if others:
        yield InvalidReason(code="settings_differ", detail=f"the engine runs with other settings: {', '.join(others)}")


def _other_lengths(planned_load: PlannedLoad, finished: Sequence[Record]) -> Iterator[InvalidReason]:
    num_other_prompts = sum(
        record.num_prompt_tokens not in (None, record.num_planned_prompt_tokens) for record in finished
    )
    if num_other_prompts:
        detail = f"{num_other_prompts} prompts had another number of tokens than planned"
        yield InvalidReason(code="prompt_lengths", detail=detail)
    # Only where the end of sequence is ignored is the length of an output part of the plan.
    fixed = {planned.index for planned in planned_load.requests if planned.sampling.ignore_eos}
    num_other_outputs = sum(output_tokens(record) != record.max_tokens for record in finished if record.index in fixed)
    if num_other_outputs:
        detail = f"{num_other_outputs} outputs had another number of tokens than planned"
        yield InvalidReason(code="output_lengths", detail=detail)
