"""The address of a server that runs already."""

from __future__ import annotations

from enginebay.backend import BackendContext
from enginebay.errors import ConfigError
from enginebay.wire.http_client import check_url


def check_address(context: BackendContext) -> None:
    """Raises ConfigError where mode external has none, or none of an HTTP server."""
    if not context.url:
        raise ConfigError("mode external needs the address of the server", path="url", expected="http://...")
    check_url(context.url)
