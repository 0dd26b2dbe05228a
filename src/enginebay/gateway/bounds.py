"""Bounds on what one client may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass

from enginebay.config.server import ServerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    max_body_bytes: int = 2**20
    max_head_bytes: int = 2**16
    """Request line and headers, and the framing of a body in chunks."""
    max_open_requests: int = 4096
    """On routes that work for their client; /health and /metrics have no part in it."""
    read_timeout_s: float = 30.0
    """For the whole body to arrive. A head that has not arrived after that to twice that is cut off."""
    write_timeout_s: float = 30.0
    """For a reader that lags to take what is buffered for it (64 KiB); after that to twice that it is cut off."""
    max_choices: int = 128
    """Prompts times n of one request."""
    default_max_tokens: int = 1024
    """Of a chat that names none, where the backend cannot count the prompt's tokens."""

    @classmethod
    def of(cls, server: ServerConfig) -> Bounds:
        return cls(
            max_head_bytes=server.max_head_bytes,
            max_body_bytes=server.max_body_bytes,
            max_open_requests=server.max_open_requests,
            write_timeout_s=server.write_timeout_s,
        )
