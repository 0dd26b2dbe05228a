"""Bounds on what one client may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    max_body_bytes: int = 2**20
    read_timeout_s: float = 30.0
    """For the whole body to arrive."""
    write_timeout_s: float = 30.0
    """For a reader that lags to take what is buffered for it (64 KiB); after that to twice that it is cut off."""
    max_choices: int = 128
    """Prompts times n of one request."""
    default_max_tokens: int = 1024
    """Of a chat that names none, where the backend cannot count the prompt's tokens."""
