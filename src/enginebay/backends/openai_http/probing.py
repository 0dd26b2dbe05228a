"""What can be found out about a server before the first request: is it ready, whose is it, what does it serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from enginebay.backends.http_engine.api import JSON_HEADERS, PROBE_TIMEOUT_S
from enginebay.backends.openai_http.options import OpenAIHttpOptions
from enginebay.errors import BackendError, BackendTimeout, StartFailed, UpstreamError
from enginebay.quantities import SIMULATED_HEADER, SIMULATED_METRIC
from enginebay.types import Capabilities, Feature, Health, HealthState, Text
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpResponse
from enginebay.wire.openai_dialects import DIALECTS, ENGINEBAY, OPENAI, Dialect
from enginebay.wire.openai_encode import encode_tokenize
from enginebay.wire.openai_errors import error_from_response
from enginebay.wire.prometheus_text import parse_metrics

_NO_HEALTH_HERE = (401, 403, 404, 405)
"""The OpenAI API itself has no health, and some servers ask for the key even there: the model list tells instead."""


class ModelCard(msgspec.Struct):
    id: str
    owned_by: str | None = None
    root: str | None = None
    """What the server loaded, where that is not its name."""
    max_model_len: int | None = None
    features: list[str] | None = None
    """Our own server tells what the backend behind it can do."""
    kind: object = None
    """This and the following are read from our own server alone; another may mean anything by these names."""
    engine_version: object = None
    effective_settings: object = None


class _ModelList(msgspec.Struct):
    data: list[ModelCard]


class _Version(msgspec.Struct):
    version: str


class _HealthBody(msgspec.Struct):
    status: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    model: str
    dialect: Dialect
    capabilities: Capabilities
    max_model_len: int | None
    engine_version: str | None
    simulated: bool
    owned_by: str | None
    engine_settings: Mapping[str, object]
    """What our own server tells of the engine behind it; empty for any other."""


async def read_health(client: HttpClient, options: OpenAIHttpOptions, *, was_ready: bool) -> Health:
    """Never raises: a server that cannot be reached is dead, or not there yet; one that was ready may be slow."""
    try:
        response = await client.request("GET", options.health_path, timeout_s=PROBE_TIMEOUT_S)
        if response.status in _NO_HEALTH_HERE:
            response = await client.request("GET", "/v1/models", timeout_s=PROBE_TIMEOUT_S)
    except BackendTimeout as error:
        return Health(HealthState.DEGRADED if was_ready else HealthState.LOADING, str(error))
    except BackendError as error:
        return Health(HealthState.DEAD, str(error))
    if response.status == 200:
        return Health(HealthState.READY)
    return _unhealthy(response)


async def find_out(client: HttpClient, options: OpenAIHttpOptions, *, model: str, backend: str) -> Found:
    """Raises StartFailed when the server does not serve the model or refuses us."""
    response = await client.request("GET", "/v1/models", timeout_s=PROBE_TIMEOUT_S)
    cards = _read_cards(response, backend=backend)
    card = _card_of(model, cards, backend=backend)
    dialect = _dialect(options, card)
    found = Found(
        model=card.id,
        dialect=dialect,
        capabilities=_capabilities(dialect, card),
        max_model_len=card.max_model_len,
        engine_version=_told_version(card, dialect) or await _read_version(client),
        simulated=response.headers.get(SIMULATED_HEADER) == "1" or await _says_simulated(client),
        owned_by=card.owned_by,
        engine_settings=_told_settings(card, dialect),
    )
    if Feature.COUNT_TOKENS in found.capabilities and not await _can_tokenize(client, card.id):
        return replace(found, capabilities=_without(found.capabilities, Feature.COUNT_TOKENS))
    return found


def _read_cards(response: HttpResponse, *, backend: str) -> list[ModelCard]:
    if response.status in (404, 405):
        return []
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


def _card_of(model: str, cards: list[ModelCard], *, backend: str) -> ModelCard:
    """By its name, else by what was loaded. A server without a list is taken at our word."""
    if not cards:
        return ModelCard(model)
    for card in cards:
        if card.id == model:
            return card
    for card in cards:
        if card.root == model:
            return card
    raise StartFailed(
        f"{backend}: the server has no model {model!r}; it serves {', '.join(repr(card.id) for card in cards)}",
        backend=backend,
        likely_cause="the model goes by another name there: set options.served_model_name",
    )


def _dialect(options: OpenAIHttpOptions, card: ModelCard) -> Dialect:
    if options.dialect != "auto":
        return DIALECTS[options.dialect]
    return next((dialect for name, dialect in DIALECTS.items() if name == card.owned_by), OPENAI)


def _capabilities(dialect: Dialect, card: ModelCard) -> Capabilities:
    if dialect is not ENGINEBAY or card.features is None:
        return dialect.capabilities
    told = {feature for feature in dialect.capabilities.features if feature.value in card.features}
    return replace(dialect.capabilities, features=frozenset(told | {Feature.DEADLINE}))


def _told_version(card: ModelCard, dialect: Dialect) -> str | None:
    return card.engine_version if dialect is ENGINEBAY and isinstance(card.engine_version, str) else None


def _told_settings(card: ModelCard, dialect: Dialect) -> dict[str, object]:
    if dialect is not ENGINEBAY or not isinstance(card.effective_settings, dict):
        return {}
    told = msgspec.convert(card.effective_settings, dict[str, object])
    return told | ({"kind": card.kind} if isinstance(card.kind, str) else {})


def _without(capabilities: Capabilities, feature: Feature) -> Capabilities:
    return replace(capabilities, features=capabilities.features - {feature})


async def _read_version(client: HttpClient) -> str | None:
    response = await client.request("GET", "/version", timeout_s=PROBE_TIMEOUT_S)
    try:
        return msgspec.json.decode(response.body, type=_Version).version if response.status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # another server's idea of that path


async def _says_simulated(client: HttpClient) -> bool:
    response = await client.request("GET", "/metrics", timeout_s=PROBE_TIMEOUT_S)
    if response.status != 200:
        return False
    try:
        return parse_metrics(response.body.decode("utf-8", "replace")).value(SIMULATED_METRIC) == 1
    except UpstreamError:
        return False  # JSON, as one engine's older releases have there


async def _can_tokenize(client: HttpClient, model: str) -> bool:
    body = encode_tokenize(Text("a"), model=model)
    response = await client.request("POST", "/tokenize", body=body, headers=JSON_HEADERS, timeout_s=PROBE_TIMEOUT_S)
    return response.status == 200


def _unhealthy(response: HttpResponse) -> Health:
    reason = f"HTTP {response.status}"
    try:
        body = msgspec.json.decode(response.body, type=_HealthBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = _HealthBody()
    states = {state.value: state for state in HealthState if state is not HealthState.READY}
    default = HealthState.LOADING if response.status == 503 else HealthState.DEGRADED
    return Health(states.get(body.status or "", default), body.reason or reason)
