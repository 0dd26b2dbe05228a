"""Clients on either event loop."""

from __future__ import annotations

from enginebay.clock import MonotonicClock
from enginebay.wire.http_client import HttpClient

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

LONG_BODY = b'{"prompt": "' + b"x" * 3_000_000 + b'"}'


def client_of(url: str, **settings) -> HttpClient:
    settings.setdefault("clock", MonotonicClock())
    return HttpClient(url, **settings)
