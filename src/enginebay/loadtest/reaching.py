"""How a further process of the client comes to a server that this one has started."""

from __future__ import annotations

from pydantic import BaseModel, SecretStr

from enginebay.backend import Backend
from enginebay.backends.http_engine.backend import HttpEngineBackend
from enginebay.guard import GuardedBackend
from enginebay.loadtest.fleet_messages import Reach
from enginebay.option_modes import unused_options

ATTACH_TIMEOUT_S = 10.0
"""The server is ready already."""


def reach_of(backend: Backend) -> Reach | None:
    """Through the same adapter, attached to the running server; None for a backend that is no HTTP server."""
    inner = backend.inner if isinstance(backend, GuardedBackend) else backend
    if not isinstance(inner, HttpEngineBackend):
        return None
    info = inner.info
    return Reach(
        kind=info.kind, name=info.name, model=info.model, url=inner.url, options=_options_to_attach(inner.options)
    )


def _options_to_attach(options: BaseModel) -> dict[str, object]:
    """Those that were given and act on a server that runs already."""
    left_out = unused_options(options, "external")
    given = options.model_dump(exclude_unset=True)
    attached = {name: _plain(value) for name, value in given.items() if name not in left_out}
    return {**attached, "start_timeout_s": ATTACH_TIMEOUT_S}


def _plain(value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
