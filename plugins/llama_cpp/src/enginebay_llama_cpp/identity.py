"""What llama-server says of itself in /props, in the words of all engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from enginebay.errors import UpstreamError
from enginebay.quantities import SIMULATED_HEADER, SIMULATED_METRIC
from enginebay.types import BackendInfo
from enginebay.wire.http_types import HttpResponse
from enginebay.wire.prometheus_text import parse_metrics


class _Generation(msgspec.Struct):
    n_ctx: int


class _Props(msgspec.Struct):
    default_generation_settings: _Generation
    total_slots: int
    model_alias: str | None = None
    model_path: str | None = None
    model_ftype: str | None = None
    build_info: str | None = None


def identify(
    info: BackendInfo, body: bytes, *, headers: Mapping[str, str], metrics: HttpResponse, backend: str
) -> BackendInfo:
    """body, headers: of /props. metrics: the answer of /metrics, which says 501 without --metrics."""
    try:
        props = msgspec.json.decode(body, type=_Props)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError(f"/props is not that of llama-server: {error}", backend=backend) from error
    context_length = props.default_generation_settings.n_ctx
    return replace(
        info,
        engine_version=props.build_info,
        max_model_len=context_length,
        effective_settings=_settings(props) | {"metrics": metrics.status == 200},
        simulated=headers.get(SIMULATED_HEADER) == "1" or _says_simulated(metrics),
    )


def _settings(props: _Props) -> dict[str, object]:
    told = {
        "max_model_len": props.default_generation_settings.n_ctx,  # of one slot
        "max_num_seqs": props.total_slots,
        "served_model_name": props.model_alias,
        "model_path": props.model_path,
        "model_ftype": props.model_ftype,
    }
    return {name: value for name, value in told.items() if value is not None}


def _says_simulated(metrics: HttpResponse) -> bool:
    if metrics.status != 200:
        return False
    return parse_metrics(metrics.body.decode("utf-8", "replace")).value(SIMULATED_METRIC) == 1
