"""`options:` of an sglang backend."""

from __future__ import annotations

from pydantic import Field

from enginebay.backends.http_engine.options import LAUNCHED, ServerOptions


class SglangOptions(ServerOptions):
    deterministic: bool = Field(
        False,
        description="Launch with --enable-deterministic-inference: slower, but then a request's seed acts.",
        json_schema_extra=LAUNCHED,
    )
