"""Values of the HTTP client: limits, time-outs, the answer that was read whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTimeouts:
    """Of one request, counted on the injected clock; None is no limit."""

    first_byte_s: float | None = 600.0
    """From the call, the wait for a free connection included, to the first byte of the answer."""
    idle_s: float | None = 120.0
    """Between two pieces of the answer; does not run while the consumer is the slow one."""
    total_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    max_head_bytes: int = 64 * 1024
    max_body_bytes: int = 64 * 1024 * 1024
    """Of an answer that is read whole. A stream has no limit: only `max_buffered_bytes` of it are in memory."""
    max_buffered_bytes: int = 1024 * 1024
    """What a consumer may lag behind before the socket is no longer read."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    headers: Mapping[str, str]
    """Lower-case names; repeated ones joined by a comma."""
    body: bytes
    received_at: float
    """When the last byte arrived."""
