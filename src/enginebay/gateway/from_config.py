"""The application that a config describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from enginebay.clock import Clock, MonotonicClock
from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.configured import configured_backend
from enginebay.gateway.app import Gateway, Part, build_app
from enginebay.gateway.bounds import Bounds
from enginebay.gateway.capture import CaptureLife, TrafficCapture
from enginebay.gateway.logs import make_logger

if TYPE_CHECKING:
    from enginebay.gateway.assembly.assembly import Assembly


def app_from_config(
    config: Config,
    name: str | None = None,
    *,
    log: FilteringBoundLogger | None = None,
    capture: TrafficCapture | None = None,
    clock: Clock | None = None,
) -> Gateway:
    """name: of a backend in the config, which is then served alone; else the config's gateway, or its own backend.

    Raises ConfigError, PluginError or StoreUnavailable.
    """
    if config.gateway is None or name is not None:
        backend, bounds = configured_backend(config, name), Bounds.of(config.server)
        return build_app(backend, bounds=bounds, log=log, capture=capture, clock=clock)
    from enginebay.gateway.assembly.assembly import Assembly

    log = log or make_logger()
    extra_hooks = () if capture is None else (capture,)
    assembly = Assembly(config, log=log, clock=clock or MonotonicClock(), extra_hooks=extra_hooks)
    parts = [*assembly.parts, *_reloading(config, assembly, log)]
    if capture is not None:
        parts.append(CaptureLife(capture, assembly.served.models))
    return Gateway(assembly.served, assembly.open_requests, parts)


def _reloading(config: Config, assembly: Assembly, log: FilteringBoundLogger) -> list[Part]:
    """Nothing for a config that has no file."""
    file = config.source.file
    if file is None or config.gateway is None or not Path(file).is_file():
        return []
    from enginebay.gateway.reloading import Reloader

    watches_file = config.gateway.reload_on_change
    return [Reloader(Path(file), lambda: load_config(file), assembly.reload, watches_file=watches_file, log=log)]
