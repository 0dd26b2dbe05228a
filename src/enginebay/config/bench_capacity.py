"""`bench.capacity:`: how the highest rate is searched at which the levels of `bench.slo` hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from enginebay.config.bench_lengths import STRICT, PositiveFloat, PositiveInt


class CapacityConfig(BaseModel):
    model_config = STRICT

    percentile: Annotated[float, Field(ge=50, lt=100)] = Field(
        default=95.0, description="Share of the requests, in per cent, that must keep each level of `slo`."
    )
    max_error_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.01, description="Share of the requests that may fail."
    )
    start_rps: PositiveFloat = Field(default=1.0, description="Rate of the first probe; the search finds its way.")
    max_probes: PositiveInt = Field(default=12, description="Most probes on one start.")
    probe_s: PositiveFloat = Field(default=60.0, description="Length of one probe; longer ones are less noisy.")
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(default=0.95, description="Of the interval.")
    precision: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.03, description="The search ends when half of the interval is at most this share of the capacity."
    )
    price_per_hour: dict[str, PositiveFloat] = Field(
        default_factory=dict, description="Of the machine, by the name of the backend: for the cost of its tokens."
    )
