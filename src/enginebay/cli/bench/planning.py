"""From the `bench:` section and the command line to a plan, and to how it is replayed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from enginebay.config.bench import BenchConfig
from enginebay.config.models import Config
from enginebay.config.overriding import overridden
from enginebay.config.resolution import resolve_backend
from enginebay.config.settings import EngineSettings
from enginebay.errors import ConfigError, ModelNotFound
from enginebay.loadtest.measurement import BenchSettings
from enginebay.loadtest.metrics import ServiceLevels
from enginebay.loadtest.plan import Load, Plan
from enginebay.loadtest.tokenizer import FileTokenizer, TextTokenizer
from enginebay.loadtest.workloads import UniformWorkload, make_plan
from enginebay.models.sources import resolve_model
from enginebay.plugins import DEFAULT_MODEL, MODEL_VARIABLE
from enginebay.types import SamplingParams


def overridden_settings(
    settings: BenchConfig,
    *,
    users: list[int] | None,
    rate: list[float] | None,
    arrivals: Literal["poisson", "constant"] | None,
    requests: int | None,
    seed: int | None,
) -> BenchConfig:
    """The `bench:` section with what the command line says instead. Users and a rate replace each other."""
    if users and rate:
        raise ConfigError("--users and --rate cannot be combined", expected="one of them")
    changes: dict[str, object] = {"num_requests": requests, "seed": seed, "users": users, "rate_rps": rate}
    changes = {key: value for key, value in changes.items() if value is not None}
    if users:
        changes |= {"rate_rps": None, "arrivals": "closed"}
    elif rate or arrivals:
        default = settings.arrivals if settings.arrivals != "closed" else "poisson"
        changes |= {"users": None, "arrivals": arrivals or default}
    return overridden(settings, changes, path="bench")


def make_bench_plan(config: Config, settings: BenchConfig, *, name: str) -> tuple[Plan, TextTokenizer]:
    """One plan for all backends; its lengths are counted by the tokenizer of the first one, `name`."""
    backend = resolve_backend(config, name)
    model = backend.model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
    tokenizer = FileTokenizer(_tokenizer_directory(backend.engine, model=model))
    workload = UniformWorkload(
        num_requests=settings.num_requests,
        min_input_tokens=settings.input_tokens.min,
        max_input_tokens=settings.input_tokens.max,
        min_output_tokens=settings.output_tokens.min,
        max_output_tokens=settings.output_tokens.max,
        num_warmup_requests=settings.warmup_requests,
    )
    sampling = SamplingParams(max_tokens=1, ignore_eos=settings.ignore_eos, **settings.sampling.model_dump())
    plan = make_plan(
        workload, loads_of(settings), model=model, sampling=sampling, seed=settings.seed, tokenizer=tokenizer
    )
    return plan, tokenizer


def _tokenizer_directory(engine: EngineSettings, *, model: str) -> Path:
    try:
        return resolve_model(engine.tokenizer or model, revision=engine.revision)
    except ModelNotFound as error:
        raise ModelNotFound(f"prompts cannot be counted: {error}. {_HOW_TO_COUNT}") from error


_HOW_TO_COUNT = (
    "The load test counts with the model's tokenizer. For a server that gives its model a name of its own, set "
    "engine.tokenizer to the model or its directory, or keep it as `model` and give the name in "
    "options.served_model_name"
)


def loads_of(settings: BenchConfig) -> tuple[Load, ...]:
    if settings.rate_rps:
        arrivals = settings.arrivals if settings.arrivals != "closed" else "poisson"
        return tuple(Load(rate=rate, arrivals=arrivals) for rate in settings.rate_rps)
    return tuple(Load(users=users) for users in settings.users or (1,))


def bench_settings_of(settings: BenchConfig) -> BenchSettings:
    return BenchSettings(
        slo=ServiceLevels(**settings.slo.model_dump()),
        num_starts=settings.starts,
        request_timeout_s=settings.request_timeout_s,
    )
