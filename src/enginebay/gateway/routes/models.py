"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from enginebay.gateway.exchange import JSON_HEADERS, Exchange
from enginebay.gateway.served import Served
from enginebay.wire.openai_responses import ModelEntry, ModelList, encode


async def list_models(served: Served, exchange: Exchange) -> None:
    await exchange.respond(200, encode(ModelList(data=[_entry(served)])), JSON_HEADERS)


async def retrieve_model(served: Served, exchange: Exchange) -> None:
    served.demand_model(exchange.path.removeprefix("/v1/models/"))
    await exchange.respond(200, encode(_entry(served)), JSON_HEADERS)


def _entry(served: Served) -> ModelEntry:
    info = served.backend.info
    return ModelEntry(
        id=served.model_name,
        created=served.started_at_unix,
        root=info.model,
        max_model_len=info.max_model_len,
        features=sorted(feature.value for feature in info.capabilities.features),
        kind=info.kind,
        engine_version=info.engine_version,
        effective_settings={key: _plain(value) for key, value in info.effective_settings.items()},
    )


def _plain(value: object) -> object:
    """A plugin may put anything into its settings; what JSON has no form of goes out as its text."""
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
