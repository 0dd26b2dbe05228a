"""From an entry of a config to what is measured: its own server, or ours around it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit, urlunsplit

from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.config.models import Config
from enginebay.config.secret import MASK, masked
from enginebay.configured import CheckedBackend, check_backend, configured_backend
from enginebay.errors import ModelError
from enginebay.loadtest.hosting import hosted, serve_command
from enginebay.loadtest.measurement import Subject
from enginebay.models.fingerprint import fingerprint
from enginebay.models.sources import resolve_model
from enginebay.plugins import get_backend


def subject_of(config: Config, config_path: Path, name: str, *, clock: Clock) -> Subject:
    """Raises ConfigError or PluginError for a name that cannot be measured; starts nothing."""
    checked = check_backend(config, name)
    served_model = checked.resolved.engine.served_model_name or checked.resolved.model

    def connect(url: str) -> Backend:
        # The load test bounds the start and each request itself, with its own settings.
        unbounded = {"first_byte_timeout_s": None, "idle_timeout_s": None}
        options = {"start_timeout_s": config.bench.start_timeout_s, **unbounded}
        return get_backend("openai_http", name=name, model=served_model, url=url, clock=clock, options=options)

    def open_own() -> AbstractAsyncContextManager[Backend]:
        # A launched engine's own default is longer than ours; who sets a limit for the load test means every engine.
        asked_s = config.bench.start_timeout_s if "start_timeout_s" in config.bench.model_fields_set else None
        return _started(configured_backend(config, name, clock=clock, start_timeout_s=asked_s))

    def open_hosted() -> AbstractAsyncContextManager[Backend]:
        return hosted(
            serve_command(config_path, name),
            name=name,
            connect=connect,
            start_timeout_s=config.bench.start_timeout_s,
        )

    return Subject(
        label=name,
        kind=checked.spec.kind,
        open=open_hosted if _is_in_process(checked) else open_own,
        configured_settings=_configured_settings(checked),
        approximated_settings=frozenset(
            outcome.setting for outcome in checked.plan.outcomes if outcome.outcome == "approximated"
        ),
        image=checked.context.image,
        model=checked.context.model,
        weights=_weights(checked),
        is_restarted=_mode(checked) != "external",
        url=_address(checked.resolved.entry.url),
    )


def _is_in_process(checked: CheckedBackend) -> bool:
    return _mode(checked) == "in_process"


def _mode(checked: CheckedBackend) -> str:
    return checked.resolved.entry.mode or checked.spec.modes[0]


def _address(url: str | None) -> str | None:
    """Without who may come in, and with what password."""
    if url is None:
        return None
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")).rstrip("/")


def _weights(checked: CheckedBackend) -> str | None:
    """None for a server that others run, and for a model that is not here yet: nobody can tell what it will be."""
    if _mode(checked) == "external":
        return None
    try:
        directory = resolve_model(checked.context.model, revision=checked.resolved.engine.revision, offline=True)
        return fingerprint(directory)
    except (ModelError, OSError):
        return None


def _configured_settings(checked: CheckedBackend) -> dict[str, object]:
    """Engine settings and options as given; secrets masked, since results are shown to people.

    Of headers the names alone: any of them may let somebody in, whatever it is called.
    """
    options = dict(checked.resolved.entry.options)
    if isinstance(headers := options.get("extra_headers"), Mapping):
        options["extra_headers"] = dict.fromkeys(cast("Mapping[str, object]", headers), MASK)
    settings = {**checked.resolved.engine.given(), **options}
    return {key: masked(value) for key, value in settings.items()}


@asynccontextmanager
async def _started(backend: Backend) -> AsyncGenerator[Backend, None]:
    try:
        await backend.start()
        yield backend
    finally:
        await backend.aclose()
