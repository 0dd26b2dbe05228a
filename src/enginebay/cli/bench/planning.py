"""From the `bench:` section and the command line to a plan, and to how it is replayed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from enginebay.clock import Clock
from enginebay.config.bench import BenchConfig
from enginebay.config.bench_arrivals import AT_RATES
from enginebay.config.models import Config
from enginebay.config.overriding import overridden
from enginebay.config.resolution import resolve_backend
from enginebay.config.settings import EngineSettings
from enginebay.configured import CheckedBackend, check_backend, configured_backend
from enginebay.errors import ConfigError, ModelNotFound, UnsupportedFeature
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.estimated_tokenizer import EstimatedTokenizer
from enginebay.loadtest.from_config import all_ignore_eos, plan_from_config
from enginebay.loadtest.measurement import BenchSettings
from enginebay.loadtest.metrics import ServiceLevels
from enginebay.loadtest.plan import Plan
from enginebay.loadtest.self_check.ceiling import ceiling_path, load_ceiling
from enginebay.loadtest.server_tokenizer import ServerTokenizer, asking
from enginebay.loadtest.tokenizer import FileTokenizer, PromptTokenizer, TextTokenizer
from enginebay.models.sources import resolve_model
from enginebay.plugins import DEFAULT_MODEL, MODEL_VARIABLE
from enginebay.verdict.comparison.phrases import listed


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
    """Plans for the named backends of a config."""

    def __init__(
        self,
        config: Config,
        *,
        names: Sequence[str],
        prompt_tokenizer: PromptTokenizer,
        tokenizer: TextTokenizer | None,
    ) -> None:
        checked = [check_backend(config, name) for name in names]
        self.model = _model_of(config, names[0])
        self.tokenizer = tokenizer
        """For a second count of the outputs; None where there is none but the servers' own."""
        self._prompt_tokenizer = prompt_tokenizer
        self._can_ignore_eos = all_ignore_eos(checked)
        self._runs_already = any(map(_runs_already, checked))

    def plan(self, settings: BenchConfig) -> Plan:
        return plan_from_config(
            settings,
            model=self.model,
            tokenizer=self._prompt_tokenizer,
            ignore_eos=self._can_ignore_eos,
            runs_already=self._runs_already,
        )


@contextmanager
def planning_for(config: Config, settings: BenchConfig, *, names: Sequence[str], clock: Clock) -> Iterator[Planning]:
    """Lengths are counted by the tokenizer of the first of them, by the first that counts itself, or by a rule."""
    tokenizer = tokenizer_of(config, settings, name=names[0])
    with ExitStack() as stack:
        prompt_tokenizer = tokenizer or EstimatedTokenizer()
        if settings.prompt_counts == "server":
            prompt_tokenizer = stack.enter_context(_counting_server(config, names, clock=clock))
        yield Planning(config, names=names, prompt_tokenizer=prompt_tokenizer, tokenizer=tokenizer)


@contextmanager
def _counting_server(config: Config, names: Sequence[str], *, clock: Clock) -> Iterator[ServerTokenizer]:
    with ExitStack() as stack:
        yield _first_that_counts(config, names, stack, clock=clock)


def _first_that_counts(config: Config, names: Sequence[str], stack: ExitStack, *, clock: Clock) -> ServerTokenizer:
    """stack: gets what must be closed at the end."""
    for name in names:
        if not _runs_already(check_backend(config, name)):
            continue
        try:
            return stack.enter_context(asking(configured_backend(config, name, clock=clock)))
        except UnsupportedFeature:
            continue  # the next may count
    raise ConfigError(
        f"none of {listed(names)} is a running server that counts tokens",
        path="bench.prompt_counts",
        expected="tokenizer or estimated",
    )


def tokenizer_of(config: Config, settings: BenchConfig, *, name: str) -> FileTokenizer | None:
    """That of a backend's model; None where this machine need not have it."""
    if settings.prompt_counts != "tokenizer":
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
    "options.served_model_name; or let the running server count, or a rule of thumb: bench.prompt_counts: server or "
    "estimated"
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
