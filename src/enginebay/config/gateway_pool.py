"""`gateway:` parts for pools: which replica gets a request, how long it may take, and what happens when it fails."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from enginebay.config.gateway_models import STRICT
from enginebay.config.secret import FreeMap, Text

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class RoutingConfig(BaseModel):
    model_config = STRICT

    policy: Text = Field(
        default="least_loaded",
        description="least_loaded, power_of_two, round_robin, consistent_hash (by session), prefix_aware, or another.",
    )
    options: FreeMap = Field(default_factory=dict, validate_default=True, description="Options of this policy.")


class TimeoutsConfig(BaseModel):
    """To open a connection has its own bound: `options.connect_timeout_s` of a backend behind HTTP."""

    model_config = STRICT

    first_token_s: Seconds = Field(default=60.0, description="From sending a request to an engine to its first token.")
    between_tokens_s: Seconds = Field(default=30.0, description="From one token to the next.")
    total_s: Seconds = Field(
        default=600.0, description="For a request in all; the only bound of one that is not streamed."
    )


class RetriesConfig(BaseModel):
    model_config = STRICT

    max_attempts: Count = Field(
        default=3, description="Attempts for a request, the first among them; 1 is no retry and no fail-over."
    )
    ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2, description="Retries that may be made for each request, on the average."
    )
    min_per_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=1.0, description="Retries that may be made in any case."
    )


class BreakerConfig(BaseModel):
    """Only faults of transport and engine count: never what was the client's fault, and no overload."""

    model_config = STRICT

    num_failures: Count = Field(default=5, description="A replica that fails so often ...")
    num_outcomes: Count = Field(default=20, description="... in so many requests gets none for a while.")
    open_s: Seconds = Field(default=5.0, description="How long; doubled each time that it fails again after it.")
    max_open_s: Seconds = Field(default=60.0, description="How long at most.")

    @model_validator(mode="after")
    def _can_open(self) -> BreakerConfig:
        if self.num_failures > self.num_outcomes:
            raise ValueError(f"it would never open: {self.num_failures} failures among {self.num_outcomes} requests")
        return self


class HealthConfig(BaseModel):
    model_config = STRICT

    period_s: Seconds = Field(default=2.0, description="How often a replica is asked for its health.")
    timeout_s: Seconds = Field(default=2.0, description="How long its answer may take.")
    canary_period_s: Seconds = Field(
        default=15.0, description="A replica that made no token for so long is asked for one, by a real request."
    )
    canary_timeout_s: Seconds = Field(default=15.0, description="How long that token may take.")
    num_failures: Count = Field(default=2, description="Checks of one kind in a row that must fail.")
    num_canaries_before_restart: Count | None = Field(
        default=4, description="Failed canaries in a row after which an engine of ours is started again; null is never."
    )


class RestartsConfig(BaseModel):
    model_config = STRICT

    min_pause_s: Seconds = Field(default=1.0, description="Before an engine that died is started again.")
    max_pause_s: Seconds = Field(default=60.0, description="The pause doubles up to this while starts fail.")


class AdmissionConfig(BaseModel):
    model_config = STRICT

    max_in_flight: Count = Field(default=256, description="Requests for each available replica; more wait.")
    max_queued: Annotated[int, Field(ge=0)] = Field(
        default=256, description="Requests that may wait, by priority and deadline; more are refused (503)."
    )
    max_wait_s: Seconds = Field(
        default=30.0, description="A request that would wait longer is refused at once, with Retry-After."
    )


class PoolConfig(BaseModel):
    """Of every model; the gateway's own section has these keys."""

    model_config = STRICT

    routing: RoutingConfig = Field(default_factory=RoutingConfig, description="Which replica gets a request.")
    timeouts: TimeoutsConfig = Field(default_factory=TimeoutsConfig, description="How long an engine may take.")
    retries: RetriesConfig = Field(default_factory=RetriesConfig, description="How often another try is made.")
    breaker: BreakerConfig = Field(default_factory=BreakerConfig, description="When a replica is left alone.")
    health: HealthConfig = Field(default_factory=HealthConfig, description="How replicas are watched.")
    restarts: RestartsConfig = Field(default_factory=RestartsConfig, description="How engines of ours come back.")
    admission: AdmissionConfig = Field(default_factory=AdmissionConfig, description="How many may be let in and wait.")
