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
    for key, flag in (("rate_rps", "--rate"), ("arrivals", "--arrivals or --burstiness")):
        if "users" in given and key in given:
            raise ConfigError(f"--users and {flag} cannot be combined", expected="one of them")
    if "users" in given:
        changes |= {"rate_rps": None, "arrivals": "closed"}
    elif "rate_rps" in given or "arrivals" in given:
        default = settings.arrivals if settings.arrivals.kind in AT_RATES else "poisson"
        arrivals = given.get("arrivals", default)
        # The name of what the config has is all of what the config has.
        changes |= {"users": None, "arrivals": settings.arrivals if arrivals == settings.arrivals.kind else arrivals}
    return overridden(settings, changes, path="bench")


class Planning:
    """Plans for the named backends of a config; lengths are counted by the tokenizer of the first of them."""

    def __init__(self, config: Config, settings: BenchConfig, *, names: Sequence[str]) -> None:
        checked = [check_backend(config, name) for name in names]
        self.model = _model_of(config, names[0])
        self._tokenizer = tokenizer_of(config, settings, name=names[0])
        self._can_ignore_eos = all_ignore_eos(checked)
        self._runs_already = any(map(_runs_already, checked))

    @property
    def tokenizer(self) -> TextTokenizer | None:
        """For a second count of the outputs; one that only estimates is none."""
        return self._tokenizer

    def plan(self, settings: BenchConfig) -> Plan:
        return plan_from_config(
            settings,
            model=self.model,
            tokenizer=self._tokenizer or EstimatedTokenizer(),
            ignore_eos=self._can_ignore_eos,
            runs_already=self._runs_already,
        )


def tokenizer_of(config: Config, settings: BenchConfig, *, name: str) -> TextTokenizer | None:
    """That of a backend's model; None where lengths are to be estimated."""
    if settings.prompt_counts == "estimated":
        return None
    return FileTokenizer(_tokenizer_directory(resolve_backend(config, name).engine, model=_model_of(config, name)))


def _model_of(config: Config, name: str) -> str:
    return resolve_backend(config, name).model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL


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
        percentiles=settings.percentiles,
        num_starts=settings.starts,
        equivalence_margin=settings.equivalence_margin,
        request_timeout_s=settings.request_timeout_s,
        num_client_processes=settings.client_processes,
        num_logprob_prompts=settings.logprob_prompts,
        ceiling=load_ceiling(ceiling_path(), environment=describe_environment()),
    )
