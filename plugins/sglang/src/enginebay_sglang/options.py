"""`options:` of an sglang backend."""

from __future__ import annotations

from pydantic import Field

from enginebay.backends.http_engine.options import ServerOptions


class SglangOptions(ServerOptions):
    deterministic: bool = Field(
        False,
        description="Launch with --enable-deterministic-inference: slower, but then a request's seed acts.",
    )
