"""`bench:` of a config: the load that every backend is measured under."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from enginebay.config.bench_arrivals import AT_RATES, ArrivalsConfig, ClosedArrivals, SteadyArrivals
from enginebay.config.bench_capacity import CapacityConfig
from enginebay.config.bench_lengths import STRICT as _CONFIG
from enginebay.config.bench_lengths import PositiveFloat, PositiveInt, TokenLengths, TokenRange
from enginebay.config.bench_workloads import SyntheticConfig, WorkloadConfig

# A YAML list becomes a tuple; its items stay strict.
Levels = Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)]
Rates = Annotated[tuple[PositiveFloat, ...], Field(strict=False, min_length=1)]
Percentiles = Annotated[tuple[Annotated[float, Field(gt=0, lt=100)], ...], Field(strict=False, min_length=1)]


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

    workload: WorkloadConfig = Field(
        default=SyntheticConfig(), description="What is asked: the name of a kind, or a map with `kind` and its keys."
    )
    num_requests: PositiveInt = Field(
        default=48,
        description="Requests of one run, each turn of a conversation counted. Ramps, steps and traces have an end of "
        "their own: for them it only counts where it is given.",
    )
    users: Levels | None = Field(default=None, description="Closed loop: simultaneous users, one run for each number.")
    rate_rps: Rates | None = Field(default=None, description="Open loop: requests a second, one run for each rate.")
    arrivals: ArrivalsConfig = Field(
        default=ClosedArrivals(),
        description="When requests are sent: the name of a kind, or a map with `kind` and its keys; poisson where only "
        "rate_rps is given.",
    )
    input_tokens: TokenLengths = Field(
        default=TokenRange(min=16, max=256),
        description="Length of the prompts, or of their own part: a number, a range, or a map with `kind`.",
    )
    output_tokens: TokenLengths = Field(
        default=TokenRange(min=16, max=64),
        description="Most tokens of the outputs, likewise. A file tells its own where this is left out.",
    )
    prompt_form: Literal["text", "token_ids", "chat"] | None = Field(
        default=None,
        description="Raw text, token ids, or messages for the model's chat template; what suits the workload if left "
        "out.",
    )
    prompt_counts: Literal["tokenizer", "server", "estimated"] = Field(
        default="tokenizer",
        description="Lengths of prompts: exact, by the model's tokenizer on this machine, or by that of a running "
        "server, which is asked for it; or estimated by a rule of thumb, where neither is at hand. Then the server's "
        "own usage tells what they were.",
    )
    ignore_eos: Literal["auto"] | bool = Field(
        default="auto",
        description="Generate the planned length, whatever the model wants; auto: where all compared backends can.",
    )
    sampling: BenchSampling = Field(default_factory=BenchSampling, description="Sampling of every request.")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Of prompts, lengths and arrivals.")
    warmup_requests: Annotated[int, Field(ge=0)] = Field(default=4, description="Sent before the run and not counted.")
    starts: PositiveInt = Field(
        default=1, description="Fresh starts of each backend, in turns; a verdict between two takes three or more."
    )
    equivalence_margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.05, description="Differences up to this share do not matter: what surely lies within is equivalent."
    )
    percentiles: Percentiles = Field(
        default=(50.0,),
        description="Percentiles that every run must have enough requests for, else it is invalid: 29 requests for 90, "
        "59 for 95, 299 for 99.",
    )
    logprob_prompts: Annotated[int, Field(ge=0)] = Field(
        default=16,
        description="Prompts that two backends or more are asked again after their first start, when nothing is "
        "measured, with log-probabilities where they give any: whether they say the same, or part at ties. 0: none.",
    )
    slo: ServiceLevels = Field(
        default_factory=ServiceLevels, description="Bounds for goodput, and for the search of the capacity."
    )
    capacity: CapacityConfig = Field(
        default_factory=CapacityConfig, description="How `bench --capacity` searches the highest rate that `slo` bears."
    )
    start_timeout_s: PositiveFloat = Field(
        default=120.0,
        description="Longest wait for a backend to be ready. Of one that we launch or attach to, its own "
        "options.start_timeout_s comes first; where neither is set, that option's default counts.",
    )
    request_timeout_s: PositiveFloat = Field(default=300.0, description="Longest wait for one answer.")
    client_processes: PositiveInt | None = Field(
        default=None,
        description="Processes that send the load and share its arrivals; as few as can make it if left out.",
    )

    @model_validator(mode="after")
    def _one_kind_of_load(self) -> BenchConfig:
        if self.users and self.rate_rps:
            raise ValueError("users (closed loop) and rate_rps (open loop) exclude each other")
        kind, names_arrivals = self.arrivals.kind, "arrivals" in self.model_fields_set
        if self.rate_rps and kind == "closed" and names_arrivals:
            raise ValueError("arrivals is closed, but rate_rps asks for an open loop: poisson, constant or gamma")
        if self.rate_rps and kind not in ("closed", *AT_RATES):
            raise ValueError(f"arrivals is {kind}, which has rates of its own: leave rate_rps out")
        if kind in AT_RATES and not self.rate_rps:
            raise ValueError(f"arrivals is {kind}, which needs rate_rps")
        if self.users and kind != "closed":
            raise ValueError(f"arrivals is {kind}, and users ask in a closed loop")
        return self

    @model_validator(mode="after")
    def _one_source_of_lengths(self) -> BenchConfig:
        """What a file or a trace tells cannot be told here too."""
        if self.prompt_counts == "estimated" and self.prompt_form == "token_ids":
            raise ValueError("prompt_form is token_ids, and prompt_counts is estimated: only the tokenizer knows ids")
        given = self.model_fields_set & _LENGTHS_OF[self.workload.kind]
        if given:
            raise ValueError(
                f"{sorted(given)[0]} is not for a {self.workload.kind} workload, which has its own lengths"
            )
        return self

    @property
    def open_arrivals(self) -> ArrivalsConfig:
        """As asked; poisson where rates alone are given."""
        if self.rate_rps and self.arrivals.kind == "closed":
            return SteadyArrivals(kind="poisson")
        return self.arrivals


_LENGTHS_OF: dict[str, frozenset[str]] = {
    "synthetic": frozenset(),
    "shared_prefix": frozenset(),
    "conversation": frozenset(),
    "sharegpt": frozenset({"input_tokens"}),
    "table": frozenset({"input_tokens"}),
    "trace": frozenset({"input_tokens", "output_tokens"}),
}
"""Keys that a kind of workload answers itself."""
