"""`gateway:` of a config: many models behind one server. Without it `enginebay serve` serves one backend."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from enginebay.config.gateway_access import AccessConfig
from enginebay.config.gateway_ledger import LedgerConfig
from enginebay.config.gateway_limits import KeyLimitSet, LimitsConfig
from enginebay.config.gateway_logs import LogsConfig
from enginebay.config.gateway_models import STRICT, ModelConfig
from enginebay.config.gateway_pool import PoolConfig
from enginebay.config.secret import ReadOnlyMap, Text


class GatewayConfig(PoolConfig):
    """Models, and whoever may ask them for what; a part that is left out is off."""

    model_config = STRICT

    models: ReadOnlyMap[ModelConfig] = Field(min_length=1, description="Models by the names that clients use.")
    access: AccessConfig | None = Field(
        default=None, description="Ask for API keys; left out, only this machine is served."
    )
    limits: LimitsConfig | None = Field(default=None, description="What each key and each address may have.")
    ledger: LedgerConfig | None = Field(default=None, description="Keep an entry for each call, with its cost.")
    logs: LogsConfig = Field(default_factory=LogsConfig, description="What the log says of each call.")
    database: Text = Field(
        default="sqlite:///enginebay.db",
        description="Of keys and ledger: sqlite:///FILE, or postgresql://... that several gateways share.",
    )
    reload_on_change: bool = Field(
        default=True, description="Read this file anew when it changes; SIGHUP does so in any case."
    )

    @property
    def backend_names(self) -> frozenset[str]:
        """Of all versions of all models."""
        versions = (entries for model in self.models.values() for entries in model.versions.values())
        return frozenset(str(entry.backend) for entries in versions for entry in entries)

    @model_validator(mode="after")
    def _fallbacks_are_models(self) -> GatewayConfig:
        for name, model in self.models.items():
            for fallback in model.fallbacks:
                if fallback not in self.models or fallback == name:
                    others = ", ".join(other for other in self.models if other != name) or "none"
                    raise ValueError(f"models.{name}.fallbacks: {fallback!r} is no other model; others: {others}")
        return self

    @model_validator(mode="after")
    def _prices_are_of_models(self) -> GatewayConfig:
        unknown = [] if self.ledger is None else [name for name in self.ledger.prices if name not in self.models]
        if unknown:
            raise ValueError(f"ledger.prices.{unknown[0]} is the price of no model; models: {', '.join(self.models)}")
        return self

    @model_validator(mode="after")
    def _limits_have_what_they_count(self) -> GatewayConfig:
        """Nothing that was limited is served without its limit."""
        if self.limits is None:
            return self
        if self.access is None and (self.limits.tiers or self.limits.key != KeyLimitSet()):
            raise ValueError("limits.key and limits.tiers need access: without keys there are only addresses")
        if self.ledger is None and any(limit_set.budget is not None for limit_set in self._key_limits()):
            raise ValueError("a budget needs ledger: its prices say what a call costs")
        return self

    def _key_limits(self) -> Iterator[KeyLimitSet]:
        if self.limits is not None:
            yield self.limits.key
            yield from self.limits.tiers.values()

    @property
    def has_budgets(self) -> bool:
        return any(limit_set.budget is not None for limit_set in self._key_limits())

    @property
    def has_token_limits(self) -> bool:
        """Whether it matters how long a prompt is before it is answered."""
        if self.limits is None:
            return False
        every = (self.limits.address, *self._key_limits())
        return self.has_budgets or any(limits.tokens_per_minute or limits.tokens_per_day for limits in every)

    @property
    def needs_database(self) -> bool:
        return self.access is not None or self.ledger is not None
