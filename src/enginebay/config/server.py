"""`server:` of a config: where `enginebay serve` listens, and the limits of what it accepts."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from enginebay.config.secret import Text

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ServerConfig(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    host: Text = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 is every interface.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8000, description="Port to listen on; 0 takes a free one."
    )
    max_body_bytes: Annotated[int, Field(ge=1)] = Field(
        default=2**20, description="Longer request bodies are refused (413)."
    )
    max_head_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=2**16, description="Longer request lines with their headers are refused (431)."
    )
    max_open_requests: Annotated[int, Field(ge=1)] = Field(
        default=4096, description="More requests at the same time are refused (503); `/health` and `/metrics` never."
    )
    write_timeout_s: PositiveFloat = Field(
        default=30.0, description="A client that reads nothing is cut off after this to twice this."
    )
    shutdown_grace_s: PositiveFloat = Field(
        default=10.0, description="How long running requests may take to end on shutdown; then an error ends them."
    )
