"""`gateway:` of a config: many models behind one server. Without it `enginebay serve` serves one backend."""

from __future__ import annotations

from pydantic import BaseModel, Field, model_validator

from enginebay.config.gateway_models import STRICT, ModelConfig
from enginebay.config.secret import ReadOnlyMap


class GatewayConfig(BaseModel):
    model_config = STRICT

    models: ReadOnlyMap[ModelConfig] = Field(min_length=1, description="Models by the names that clients use.")
    reload_on_change: bool = Field(
        default=True, description="Read this file anew when it changes; SIGHUP does so in any case."
    )

    @model_validator(mode="after")
    def _fallbacks_are_models(self) -> GatewayConfig:
        for name, model in self.models.items():
            for fallback in model.fallbacks:
                if fallback not in self.models or fallback == name:
                    others = ", ".join(other for other in self.models if other != name) or "none"
                    raise ValueError(f"models.{name}.fallbacks: {fallback!r} is no other model; others: {others}")
        return self
