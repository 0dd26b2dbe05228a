"""The official client of the OpenAI API, pointed at what a config serves. Needs the extra `[openai]`."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from enginebay.backend import Backend
from enginebay.backends.http_engine.backend import HttpEngineBackend
from enginebay.backends.http_engine.options import HttpOptions
from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.configured import check_backend
from enginebay.errors import BackendUnavailable, ConfigError
from enginebay.guard import GuardedBackend
from enginebay.plugins import context_mode

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

NO_KEY = "none"
"""The client wants a key; without one of the entry's own it must not find another server's in the environment."""
_CONNECT_TIMEOUT_S = 5.0
_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def openai_client(served: Config | Backend | Path | str, name: str | None = None) -> OpenAI:
    """An `openai.OpenAI` for the running server of a config (or its file), or of a started backend.

    name: of a backend of the config, else the config's own. An external one is reached at its own address, with its
    key; every other one where `enginebay serve CONFIG` listens. The model's name for requests: `served_model(client)`.
    Raises BackendUnavailable when nothing listens there, ConfigError where there is no server to reach.
    """
    with _openai_extra():
        from openai import DefaultHttpxClient, OpenAI
    server = _server_of(served, name)
    _check_listening(server)
    http = DefaultHttpxClient(verify=server.verify, trust_env=not server.is_local)
    client = OpenAI(base_url=server.base_url, api_key=server.api_key, default_headers=server.headers, http_client=http)
    client.organization = client.project = None  # found in the environment, they are another server's
    return client


async def async_openai_client(served: Config | Backend | Path | str, name: str | None = None) -> AsyncOpenAI:
    """The same for `openai.AsyncOpenAI`."""
    with _openai_extra():
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    server = _server_of(served, name)
    await asyncio.to_thread(_check_listening, server)
    http = DefaultAsyncHttpxClient(verify=server.verify, trust_env=not server.is_local)
    client = AsyncOpenAI(
        base_url=server.base_url, api_key=server.api_key, default_headers=server.headers, http_client=http
    )
    client.organization = client.project = None
    return client


def served_model(client: OpenAI) -> str:
    """The name that requests to this server give as `model`: the first one that it offers."""
    return next(iter(client.models.list())).id


@contextmanager
def _openai_extra() -> Generator[None, None, None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'the official client needs the Python package {error.name!r}: pip install "enginebay[openai]"'
        ) from error


# ---------------------------------------------------------------- where it is


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    url: str
    """Without `/v1`."""
    remedy: str
    """What to do when nothing listens there."""
    api_key: str = field(default=NO_KEY, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    verify: ssl.SSLContext | bool = True

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def is_local(self) -> bool:
        return urlsplit(self.url).hostname in ("127.0.0.1", "::1", "localhost")


def _server_of(served: Config | Backend | Path | str, name: str | None) -> _Server:
    if isinstance(served, str | Path):
        served = load_config(Path(served))
    if isinstance(served, Config):
        return _configured_server(served, name)
    return _server_of_backend(served.inner if isinstance(served, GuardedBackend) else served)


def _configured_server(config: Config, name: str | None) -> _Server:
    checked = check_backend(config, name)
    context = checked.context
    if context_mode(checked.spec, context) == "external" and context.url is not None:
        _demand_openai_api(context.options, name=context.name)
        return _engine_server(context.url, context.options, remedy="start the server, or correct the entry's url")
    host, port = str(config.server.host), config.server.port
    if port == 0:
        problem = "a port that is chosen when it serves cannot be known here"
        raise ConfigError(problem, file=config.source.file, path="server.port", expected="a port of 1 to 65535")
    host = _EVERY_INTERFACE.get(host, host)
    command = f"enginebay serve {config.source.file or 'CONFIG'}" + (f" --backend {name}" if name else "")
    return _Server(url=f"http://{f'[{host}]' if ':' in host else host}:{port}", remedy=f"run: {command}")


def _server_of_backend(backend: Backend) -> _Server:
    if not isinstance(backend, HttpEngineBackend):
        raise ConfigError(
            f"backend {backend.info.name!r} computes in a process of ours and has no server of its own: run "
            "enginebay serve with its config, and give that config here"
        )
    _demand_openai_api(backend.options, name=backend.info.name)
    if not backend.url:
        raise ConfigError(f"backend {backend.info.name!r} has no address before it is started: call start() first")
    return _engine_server(backend.url, backend.options, remedy="its server has ended: make a new backend")


def _demand_openai_api(options: HttpOptions, *, name: str) -> None:
    """Of the kinds whose server may speak another API, the option `api` says which one."""
    api = getattr(options, "api", "openai")
    if api != "openai":
        raise ConfigError(
            f"the server of backend {name!r} has no OpenAI API, but that of {api}: run enginebay serve with its "
            "config, and reach what it serves by an entry of kind openai_http",
            path="options.api",
            expected="openai",
        )


def _engine_server(url: str, options: HttpOptions, *, remedy: str) -> _Server:
    return _Server(
        url=url.rstrip("/").removesuffix("/v1"),
        remedy=remedy,
        api_key=options.api_key.get_secret_value() if options.api_key else NO_KEY,
        headers=options.extra_headers,
        verify=options.ssl_context() or True,
    )


def _check_listening(server: _Server) -> None:
    parts = urlsplit(server.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise BackendUnavailable(
            f"nothing listens at {server.url} ({error.strerror or error}); {server.remedy}"
        ) from error
