"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from enginebay.gateway.exchange import JSON_HEADERS, Exchange
from enginebay.gateway.models.served_model import ServedModel
from enginebay.gateway.served import Served
from enginebay.wire.openai_responses import ModelEntry, ModelList, encode


async def list_models(served: Served, exchange: Exchange) -> None:
    models = [served.model(name, exchange.client) for name in served.names_for(exchange.client)]
    await exchange.respond(200, encode(ModelList(data=[_entry(model) for model in models])), JSON_HEADERS)


async def retrieve_model(served: Served, exchange: Exchange) -> None:
    model = served.model(exchange.path.removeprefix("/v1/models/"), exchange.client)
    await exchange.respond(200, encode(_entry(model)), JSON_HEADERS)


def _entry(model: ServedModel) -> ModelEntry:
    info = model.info
    return ModelEntry(
        id=model.name,
        created=model.created_at_unix,
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
