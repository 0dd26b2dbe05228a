"""`bench.arrivals`: when requests are sent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from enginebay.config.bench_lengths import STRICT, PositiveFloat, PositiveInt

Burstiness = Annotated[
    PositiveFloat,
    Field(description="Shape of the gaps' gamma distribution: 1 is Poisson, less comes in bursts, more evenly."),
]
AT_RATES = ("poisson", "constant", "gamma")
"""Arrivals that go with rate_rps."""


class ClosedArrivals(BaseModel):
    """bench.users that each wait for their answer before they ask again."""

    model_config = STRICT

    kind: Literal["closed"] = Field(default="closed", description="Users that wait for their answers.")


class SteadyArrivals(BaseModel):
    """At bench.rate_rps, at random or evenly."""

    model_config = STRICT

    kind: Literal["poisson", "constant"] = Field(description="poisson: at random; constant: one every 1/rate seconds.")


class GammaArrivals(BaseModel):
    """At bench.rate_rps, in bursts or nearly evenly."""

    model_config = STRICT

    kind: Literal["gamma"] = Field(description="In bursts, or nearly evenly.")
    burstiness: Burstiness


class RampArrivals(BaseModel):
    """A rate that rises or falls in a straight line."""

    model_config = STRICT

    kind: Literal["ramp"] = Field(description="A rate that rises or falls in a straight line.")
    from_rps: PositiveFloat = Field(description="Requests a second at the beginning.")
    to_rps: PositiveFloat = Field(description="Requests a second at the end.")
    duration_s: PositiveFloat = Field(description="From the beginning to the end.")
    burstiness: Burstiness = 1.0


class StepConfig(BaseModel):
    """A part of steps."""

    model_config = STRICT

    rate_rps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(description="Requests a second; 0 is a pause.")
    duration_s: PositiveFloat = Field(description="How long.")


class StepsArrivals(BaseModel):
    """One rate after the other within one run."""

    model_config = STRICT

    kind: Literal["steps"] = Field(description="One rate after the other within one run.")
    steps: Annotated[tuple[StepConfig, ...], Field(strict=False, min_length=1)] = Field(description="The rates.")
    burstiness: Burstiness = 1.0


class SweepArrivals(BaseModel):
    """A run for each of several rates, from light to heavy."""

    model_config = STRICT

    kind: Literal["sweep"] = Field(description="A run for each of several rates.")
    from_rps: PositiveFloat = Field(description="The lowest rate.")
    to_rps: PositiveFloat = Field(description="The highest rate.")
    num_rates: Annotated[int, Field(ge=2)] = Field(description="How many rates, both ends included.")
    spacing: Literal["linear", "geometric"] = Field(
        default="linear", description="Equal steps, or equal factors from one rate to the next."
    )
    process: Literal["poisson", "constant"] = Field(default="poisson", description="At each rate.")


class TraceArrivals(BaseModel):
    """The instants of recorded traffic."""

    model_config = STRICT

    kind: Literal["trace"] = Field(description="The instants of recorded traffic.")
    path: Annotated[Path, Field(strict=False)] | None = Field(
        default=None, description="The file; that of the workload, if it is a trace, where this is left out."
    )
    format: Literal["mooncake", "burstgpt", "azure"] | None = Field(
        default=None, description="Told by the file's first line if left out."
    )
    block_tokens: PositiveInt | None = Field(
        default=None, description="Of Mooncake's: tokens of a block of hash_ids; found in the lengths if left out."
    )
    speeds: Annotated[tuple[PositiveFloat, ...], Field(strict=False, min_length=1)] = Field(
        default=(1.0,), description="How many times as fast as recorded, one run for each."
    )
    max_requests: PositiveInt | None = Field(default=None, description="Only the first ones.")

    @model_validator(mode="after")
    def _about_a_file_of_its_own(self) -> TraceArrivals:
        for name in ("format", "block_tokens"):
            if self.path is None and getattr(self, name) is not None:
                raise ValueError(f"{name} goes with path; the workload's trace is read as the workload says")
        return self


def _from_name(value: object) -> object:
    """`arrivals: poisson` for `arrivals: {kind: poisson}`."""
    return {"kind": value} if isinstance(value, str) else value


ArrivalsConfig = Annotated[
    Annotated[
        ClosedArrivals | SteadyArrivals | GammaArrivals | RampArrivals | StepsArrivals | SweepArrivals | TraceArrivals,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_from_name),
]
