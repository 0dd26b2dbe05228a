"""What a key may do: routes by scope."""

from __future__ import annotations

from enginebay.errors import PermissionDenied
from enginebay.gateway.call import Client
from enginebay.gateway.doorkeeper import INFERENCE, METRICS

ADMIN = "admin"
"""Everything that any other scope allows."""
SCOPES = (INFERENCE, METRICS, ADMIN)


def demand_scope(client: Client, scope: str) -> None:
    """Raises PermissionDenied."""
    if not client.scopes & {scope, ADMIN}:
        raise PermissionDenied(f"this API key has no scope {scope!r}: ask for one that has")
