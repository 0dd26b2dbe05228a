"""`bench:` of a config: the load that every backend is measured under."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# A YAML list becomes a tuple; its items stay strict.
Levels = Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)]
Rates = Annotated[tuple[PositiveFloat, ...], Field(strict=False, min_length=1)]

_CONFIG = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


class TokenRange(BaseModel):
    """Lengths drawn uniformly, both ends included."""

    model_config = _CONFIG

    min: PositiveInt = Field(description="Fewest tokens.")
    max: PositiveInt = Field(description="Most tokens.")

    @model_validator(mode="after")
    def _ordered(self) -> TokenRange:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is less than min ({self.min})")
        return self


class ServiceLevels(BaseModel):
    """A request counts as good when it meets every one that is given."""

    model_config = _CONFIG

    ttft_s: PositiveFloat | None = Field(default=None, description="Longest time to the first token.")
    tpot_s: PositiveFloat | None = Field(default=None, description="Longest time for each further token.")
    e2e_s: PositiveFloat | None = Field(default=None, description="Longest time from sending to the last token.")


class BenchSampling(BaseModel):
    """Sampling of every request; always sent to the engine explicitly."""

    model_config = _CONFIG

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(default=0.0, description="0 is greedy.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(default=1.0, description="Nucleus of the distribution.")
    top_k: Annotated[int, Field(ge=0)] = Field(default=0, description="0 is off.")


class BenchConfig(BaseModel):
    model_config = _CONFIG

    workload: Literal["uniform"] = Field(default="uniform", description="How prompts and lengths are made.")
    num_requests: PositiveInt = Field(default=48, description="Requests of one run.")
    users: Levels | None = Field(default=None, description="Closed loop: simultaneous users, one run for each number.")
    rate_rps: Rates | None = Field(default=None, description="Open loop: requests a second, one run for each rate.")
    arrivals: Literal["closed", "poisson", "constant"] = Field(
        default="closed", description="When requests are sent; poisson where only rate_rps is given."
    )
    input_tokens: TokenRange = Field(default=TokenRange(min=16, max=256), description="Length of the prompts.")
    output_tokens: TokenRange = Field(default=TokenRange(min=16, max=64), description="Length of the outputs.")
    ignore_eos: bool = Field(default=True, description="Generate the planned length, whatever the model wants.")
    sampling: BenchSampling = Field(default_factory=BenchSampling, description="Sampling of every request.")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Of prompts, lengths and arrivals.")
    warmup_requests: Annotated[int, Field(ge=0)] = Field(default=4, description="Sent before the run and not counted.")
    starts: PositiveInt = Field(default=1, description="Fresh starts of each backend.")
    slo: ServiceLevels = Field(default_factory=ServiceLevels, description="Bounds for goodput.")
    start_timeout_s: PositiveFloat = Field(
        default=120.0,
        description="Longest wait for a backend to be ready. Of one that we launch or attach to, its own "
        "options.start_timeout_s comes first; where neither is set, that option's default counts.",
    )
    request_timeout_s: PositiveFloat = Field(default=300.0, description="Longest wait for one answer.")

    @model_validator(mode="after")
    def _one_kind_of_load(self) -> BenchConfig:
        if self.users and self.rate_rps:
            raise ValueError("users (closed loop) and rate_rps (open loop) exclude each other")
        if self.rate_rps and self.arrivals == "closed" and "arrivals" in self.model_fields_set:
            raise ValueError("arrivals is closed, but rate_rps asks for an open loop: poisson or constant")
        if self.arrivals != "closed" and not self.rate_rps:
            raise ValueError(f"arrivals is {self.arrivals}, which needs rate_rps")
        return self
