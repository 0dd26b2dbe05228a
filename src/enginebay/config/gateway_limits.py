"""`gateway.limits`: how much each key and each address may have."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from enginebay.config.gateway_models import STRICT
from enginebay.config.secret import ReadOnlyMap, Text

Count = Annotated[int, Field(ge=1, le=10**15)]


class BudgetConfig(BaseModel):
    model_config = STRICT

    amount: Annotated[float, Field(gt=0, le=10**6, allow_inf_nan=False)] = Field(
        description="In the currency of the prices."
    )
    per: Literal["day", "month"] = Field(description="Calendar day or month, in UTC.")

    @property
    def amount_nano(self) -> int:
        """Billionths of the currency."""
        return int(Decimal(str(self.amount)) * 10**9)


class LimitSet(BaseModel):
    """What is left out is not limited."""

    model_config = STRICT

    requests_per_second: Count | None = Field(default=None, description="In no second more requests than this.")
    requests_per_minute: Count | None = Field(default=None, description="In no minute more requests than this.")
    tokens_per_minute: Count | None = Field(
        default=None, description="In no minute more tokens, of prompts and answers together."
    )
    tokens_per_day: Count | None = Field(default=None, description="In no 24 hours more tokens.")
    concurrent_requests: Count | None = Field(default=None, description="Requests that run at the same time.")


class KeyLimitSet(LimitSet):
    budget: BudgetConfig | None = Field(default=None, description="Money; every model needs a price then.")


class LimitsConfig(BaseModel):
    model_config = STRICT

    key: KeyLimitSet = Field(default_factory=KeyLimitSet, description="Of each key without a tier.")
    tiers: ReadOnlyMap[KeyLimitSet] = Field(
        default_factory=dict,
        validate_default=True,
        description="Instead of `key` for keys that were made with `--tier NAME`.",
    )
    address: LimitSet = Field(default_factory=LimitSet, description="Of each IP address, beside that of its key.")
    redis: Text | None = Field(
        default=None, description="redis://HOST:PORT/DB that several gateways share; without it each counts alone."
    )
    lease_s: Annotated[float, Field(ge=60, allow_inf_nan=False)] = Field(
        default=3600.0,
        description="In Redis: longer than any request takes. What a gateway that died has reserved counts as used "
        "after it.",
    )

    @model_validator(mode="after")
    def _redis_is_a_url(self) -> LimitsConfig:
        if self.redis is not None and not self.redis.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("redis is no URL; expected redis://HOST:PORT, rediss://... or unix://...")
        return self
