"""Base of every policy's options."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PolicyOptions(BaseModel):
    """A policy without options uses it as it is."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
