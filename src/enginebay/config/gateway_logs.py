"""`gateway.logs`: what the log says beyond refusals and failures, which it always has."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field, model_validator

from enginebay.config.gateway_models import STRICT


class LogsConfig(BaseModel):
    model_config = STRICT

    calls: bool = Field(default=False, description="A line for each call: its id, key, model, tokens, times, outcome.")
    texts: bool = Field(
        default=False, description="With `calls`: prompts and completions too, which may be what nobody should read."
    )

    @model_validator(mode="after")
    def _texts_are_of_calls(self) -> Self:
        if self.texts and not self.calls:
            raise ValueError("texts stand in the lines of `calls`: ask for both, or for neither")
        return self
