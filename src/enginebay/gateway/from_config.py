"""The application that a config describes."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from enginebay.config.models import Config
from enginebay.configured import configured_backend
from enginebay.gateway.app import Gateway, build_app
from enginebay.gateway.bounds import Bounds
from enginebay.gateway.capture import TrafficCapture


def app_from_config(
    config: Config,
    name: str | None = None,
    *,
    log: FilteringBoundLogger | None = None,
    capture: TrafficCapture | None = None,
) -> Gateway:
    """name: of a backend in the config, else the config's own. Raises ConfigError or PluginError."""
    bounds = Bounds(max_body_bytes=config.server.max_body_bytes, write_timeout_s=config.server.write_timeout_s)
    return build_app(configured_backend(config, name), bounds=bounds, log=log, capture=capture)
