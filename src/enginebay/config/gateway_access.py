"""`gateway.access`: API keys. Without it the gateway serves its own machine alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from enginebay.config.gateway_models import STRICT


class AccessConfig(BaseModel):
    """Every request but those for health needs a key, made with `enginebay keys create`."""

    model_config = STRICT

    num_cached_keys: Annotated[int, Field(ge=1)] = Field(
        default=10_000, description="Keys kept in memory; others are looked up in the database when they are used."
    )
    trusted_without_database_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=30.0,
        description="How long keys in memory stay good while the database is away; a revocation is not seen meanwhile.",
    )
    failures_per_minute: Annotated[int, Field(ge=1)] = Field(
        default=60, description="Requests of one address with a wrong key; after that it is refused without a look."
    )
