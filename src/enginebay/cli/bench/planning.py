"""From the `bench:` section and the command line to a plan, and to how it is replayed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from enginebay.config.bench import BenchConfig
from enginebay.config.bench_arrivals import AT_RATES
from enginebay.config.models import Config
from enginebay.config.overriding import overridden
from enginebay.config.resolution import resolve_backend
from enginebay.config.settings import EngineSettings
from enginebay.configured import CheckedBackend, check_backend
from enginebay.errors import ConfigError, ModelNotFound
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.estimated_tokenizer import EstimatedTokenizer
from enginebay.loadtest.from_config import all_ignore_eos, plan_from_config
from enginebay.loadtest.measurement import BenchSettings
from enginebay.loadtest.metrics import ServiceLevels
from enginebay.loadtest.plan import Plan
from enginebay.loadtest.self_check.ceiling import ceiling_path, load_ceiling
from enginebay.loadtest.tokenizer import FileTokenizer, TextTokenizer
from enginebay.models.sources import resolve_model
from enginebay.plugins import DEFAULT_MODEL, MODEL_VARIABLE


def overridden_settings(settings: BenchConfig, given: Mapping[str, object]) -> BenchConfig:
    """The `bench:` section with what the command line says instead. Users and a rate replace each other.

    given: by the keys of the section; what was not said is absent.
    """
    changes = dict(given)
    if "users" in given and "rate_rps" in given:
        raise ConfigError("--users and --rate cannot be combined", expected="one of them")
    if "users" in given:
        changes |= {"rate_rps": None, "arrivals": "closed"}
    elif "rate_rps" in given or "arrivals" in given:
        default = settings.arrivals if settings.arrivals.kind in AT_RATES else "poisson"
        changes |= {"users": None, "arrivals": given.get("arrivals", default)}
    return overridden(settings, changes, path="bench")


def make_bench_plan(
    config: Config, settings: BenchConfig, *, names: Sequence[str]
) -> tuple[Plan, TextTokenizer | None]:
    """One plan for all backends; its lengths are counted by the tokenizer of the first of `names`.

    The tokenizer is for a second count of the outputs; one that only estimates is none.
    """
    backend = resolve_backend(config, names[0])
    model = backend.model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
    is_exact = settings.prompt_counts == "tokenizer"
    tokenizer = FileTokenizer(_tokenizer_directory(backend.engine, model=model)) if is_exact else EstimatedTokenizer()
    ignore_eos = settings.ignore_eos == "auto" and all_ignore_eos([check_backend(config, each) for each in names])
    plan = plan_from_config(
        settings,
        model=model,
        tokenizer=tokenizer,
        ignore_eos=ignore_eos,
        runs_already=any(_runs_already(check_backend(config, each)) for each in names),
    )
    return plan, tokenizer if is_exact else None


def _runs_already(checked: CheckedBackend) -> bool:
    return (checked.resolved.entry.mode or checked.spec.modes[0]) == "external"


def _tokenizer_directory(engine: EngineSettings, *, model: str) -> Path:
    try:
        return resolve_model(engine.tokenizer or model, revision=engine.revision)
    except ModelNotFound as error:
        raise ModelNotFound(f"prompts cannot be counted: {error}. {_HOW_TO_COUNT}") from error


_HOW_TO_COUNT = (
    "The load test counts with the model's tokenizer. For a server that gives its model a name of its own, set "
    "engine.tokenizer to the model or its directory, or keep it as `model` and give the name in "
    "options.served_model_name; or let lengths be estimated: bench.prompt_counts: estimated"
)


def bench_settings_of(settings: BenchConfig) -> BenchSettings:
    return BenchSettings(
        slo=ServiceLevels(**settings.slo.model_dump()),
        num_starts=settings.starts,
        request_timeout_s=settings.request_timeout_s,
        num_client_processes=settings.client_processes,
        ceiling=load_ceiling(ceiling_path(), environment=describe_environment()),
    )
