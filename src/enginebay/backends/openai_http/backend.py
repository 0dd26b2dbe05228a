"""A server that runs already and speaks the OpenAI API, as a `Backend`."""

from __future__ import annotations

from dataclasses import replace

from enginebay.backend import BackendContext
from enginebay.backends.http_engine.backend import HttpEngineBackend
from enginebay.backends.openai_http.api import OpenAIApi
from enginebay.backends.openai_http.options import OpenAIHttpOptions


class OpenAIHttpBackend(HttpEngineBackend):
    def __init__(self, context: BackendContext) -> None:
        options: OpenAIHttpOptions = context.options
        api = OpenAIApi(options, name=context.name)
        served_model_name = context.settings.get("served_model_name")
        super().__init__(
            replace(context, url=_server_url(context.url or "")),
            kind="openai_http",
            api=api,
            capabilities=api.dialect.capabilities,
            model=options.served_model_name or str(served_model_name or context.model),
        )


def _server_url(url: str) -> str:
    """Clients of the OpenAI API are given the address with `/v1`; both forms are meant to work."""
    return url.rstrip("/").removesuffix("/v1")
