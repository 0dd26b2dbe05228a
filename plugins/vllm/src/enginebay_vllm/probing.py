"""What a running vLLM server tells of itself: model, version, limits, what it can do, the settings it runs with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from enginebay.backends.http_engine.api import JSON_HEADERS, PROBE_TIMEOUT_S
from enginebay.errors import StartFailed, UpstreamError
from enginebay.quantities import SIMULATED_HEADER, SIMULATED_METRIC
from enginebay.types import Text
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpResponse
from enginebay.wire.openai_encode import encode_tokenize
from enginebay.wire.openai_errors import error_from_response
from enginebay.wire.prometheus_text import MetricsText, parse_metrics
from enginebay_vllm.effective import ServerInfo

SERVER_INFO_TIMEOUT_S = 60.0
"""The first time it is asked, the server looks at the whole machine."""


class ModelCard(msgspec.Struct):
    id: str
    root: str | None = None
    """What the server loaded, where that is not its name."""
    parent: str | None = None
    """Of a LoRA adapter: the model it belongs to."""
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    model: ModelCard
    adapters: tuple[str, ...]
    simulated: bool


class _ModelList(msgspec.Struct):
    data: list[ModelCard]


class _Version(msgspec.Struct):
    version: str | None = None


async def find_model(http: HttpClient, model: str, *, backend: str) -> Served:
    """Raises StartFailed when the server refuses us or does not serve the model."""
    response = await http.request("GET", "/v1/models", timeout_s=PROBE_TIMEOUT_S)
    cards = _cards(response, backend=backend)
    found = next((card for card in cards if card.id == model), None) or next(
        (card for card in cards if card.root == model and card.parent is None), None
    )
    if found is None:
        raise StartFailed(
            f"{backend}: the server has no model {model!r}; it serves {', '.join(repr(card.id) for card in cards)}",
            backend=backend,
            likely_cause="the model goes by another name there: set engine.served_model_name",
        )
    adapters = tuple(card.id for card in cards if card.parent == found.id)
    return Served(model=found, adapters=adapters, simulated=response.headers.get(SIMULATED_HEADER) == "1")


def _cards(response: HttpResponse, *, backend: str) -> list[ModelCard]:
    if response.status in (401, 403):
        raise StartFailed(
            f"{backend}: the server refuses us (HTTP {response.status})",
            backend=backend,
            likely_cause="the API key: set options.api_key",
        )
    if response.status != 200:
        raise error_from_response(response.status, response.body, backend=backend, headers=response.headers)
    try:
        return msgspec.json.decode(response.body, type=_ModelList).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError(f"/v1/models answered with no model list: {error}", backend=backend) from error


async def read_version(http: HttpClient) -> str | None:
    response = await http.request("GET", "/version", timeout_s=PROBE_TIMEOUT_S)
    try:
        return msgspec.json.decode(response.body, type=_Version).version if response.status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def read_metrics(http: HttpClient, *, backend: str) -> MetricsText:
    response = await http.request("GET", "/metrics", timeout_s=PROBE_TIMEOUT_S)
    if response.status != 200:
        raise error_from_response(response.status, response.body, backend=backend, headers=response.headers)
    return parse_metrics(response.body.decode("utf-8", "replace"))


def says_simulated(metrics: MetricsText) -> bool:
    return metrics.value(SIMULATED_METRIC) == 1


def cache_config(metrics: MetricsText) -> Mapping[str, str]:
    """The labels of the one series that carries the configuration of the KV cache."""
    return next((sample.labels for sample in metrics.matching("vllm:cache_config_info")), {})


async def read_server_info(http: HttpClient) -> ServerInfo | None:
    """None where the server is not in development mode."""
    response = await http.request("GET", "/server_info?config_format=json", timeout_s=SERVER_INFO_TIMEOUT_S)
    try:
        return msgspec.json.decode(response.body, type=ServerInfo) if response.status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # another release's form: what it would have told is unknown


async def can_tokenize(http: HttpClient, model: str) -> bool:
    body = encode_tokenize(Text("a"), model=model)
    response = await http.request("POST", "/tokenize", body=body, headers=JSON_HEADERS, timeout_s=PROBE_TIMEOUT_S)
    return response.status == 200
