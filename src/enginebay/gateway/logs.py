"""The server's log: one JSON object a line on standard error. Never a prompt, a completion or a key."""

from __future__ import annotations

import sys
from typing import TextIO

import structlog
from structlog.typing import FilteringBoundLogger


def make_logger(stream: TextIO | None = None, *, level: str = "info") -> FilteringBoundLogger:
    """A logger of its own: structlog's global configuration is neither read nor changed."""
    return structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
