"""`gateway.ledger`: where each call's tokens and cost are kept, and what tokens cost."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from enginebay.config.secret import ReadOnlyMap, Text

STRICT = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveAmount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PriceConfig(BaseModel):
    """Of one model: by the token, or by the hour of the machine that serves it."""

    model_config = STRICT

    prompt: Amount | None = Field(default=None, description="For a million tokens of prompts.")
    cached_prompt: Amount | None = Field(
        default=None,
        description="For a million tokens of prompts that came from the prefix cache; as `prompt` if left out.",
    )
    output: Amount | None = Field(default=None, description="For a million output tokens.")
    hour: PositiveAmount | None = Field(
        default=None, description="For an hour of the machine, instead of prices by the token."
    )
    output_tokens_per_s: PositiveAmount | None = Field(
        default=None, description="With `hour`: what the machine makes under its usual load, as `bench` measures it."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        by_token = (self.prompt, self.cached_prompt, self.output)
        if (self.hour is None) != (self.output_tokens_per_s is None):
            raise ValueError("`hour` and `output_tokens_per_s` belong together")
        if self.hour is not None and any(price is not None for price in by_token):
            raise ValueError("give prices by the token or by the hour, not both")
        if self.hour is None and (self.prompt is None or self.output is None):
            raise ValueError("give `prompt` and `output`, or `hour` and `output_tokens_per_s`")
        return self


class LedgerConfig(BaseModel):
    model_config = STRICT

    journal: Text = Field(
        default="enginebay-journal",
        description="Directory on this machine's disk for entries on their way to the database; gateways may share it.",
    )
    currency: Annotated[Text, Field(min_length=1, max_length=16)] = Field(
        default="USD", description="Of all prices, for example EUR."
    )
    prices: ReadOnlyMap[PriceConfig] = Field(
        default_factory=dict,
        validate_default=True,
        description="By the name of the model; the cost of a model without a price is unknown, not zero.",
    )
