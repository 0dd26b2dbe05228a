"""Finds and builds backends. `get_backend("vllm")` loads that one plugin alone: a broken neighbour does no harm."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from enginebay.backend import Backend, BackendContext, BackendSpec, LaunchPlan, Mode, attached_plan
from enginebay.clock import Clock, MonotonicClock
from enginebay.errors import BackendNotFound, BrokenPlugin, ConfigError, DuplicateBackend, EngineBayError
from enginebay.guard import GuardedBackend
from enginebay.hookspecs import ENTRY_POINT_GROUP, PROJECT, BackendHooks
from enginebay.option_modes import unused_options

DEFAULT_MODEL = "smollm2-135m"
MODEL_VARIABLE = "ENGINEBAY_MODEL"
ALIASES = {
    "trtllm": "tensorrt_llm",
    "tensorrtllm": "tensorrt_llm",
    "llamacpp": "llama_cpp",
    "text_generation_inference": "tgi",
    "openai": "openai_http",
}
PACKAGES = {
    "vllm": "enginebay-vllm[engine]",
    "tgi": "enginebay-tgi",
    "tensorrt_llm": "enginebay-tensorrt-llm[engine]",
    "sglang": "enginebay-sglang",
    "llama_cpp": "enginebay-llama-cpp",
    "openvino": "enginebay-openvino[engine]",
}


def get_backend(
    kind: str,
    *,
    model: str | None = None,
    name: str | None = None,
    mode: Mode | None = None,
    url: str | None = None,
    venv: str | None = None,
    image: str | None = None,
    engine: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    seed: int = 0,
    **settings: object,
) -> GuardedBackend:
    """Build a backend that is not started yet; use it with `async with`.

    kind: case does not matter, and `-`, `_` and `.` are one. model: else `ENGINEBAY_MODEL`, else the embedded default.
    engine: portable settings; options: the plugin's own. Further keywords are sorted into these two by name, so that
    `get_backend("vllm", tensor_parallel_size=2)` works. Raises PluginError or ConfigError.
    """
    spec = find_backend(kind)
    engine_settings, plugin_options = _sort_keywords(settings, spec)
    engine_settings.update(engine or {})
    plugin_options.update(options or {})
    context = BackendContext(
        name=name or spec.kind,
        model=model_or_default(model),
        options=_validated(spec.options_model, plugin_options, path=(spec.kind, "options")),
        settings=_validated_settings(engine_settings),
        clock=clock or MonotonicClock(),
        mode=mode,
        url=url,
        venv=venv,
        image=image,
        seed=seed,
        environment=dict(environment or {}),
    )
    return build_backend(spec, context)


def compile_plan(spec: BackendSpec, context: BackendContext) -> LaunchPlan:
    """What the context's settings become for this kind, with the command that would be run; starts nothing."""
    if context_mode(spec, context) == "external" and spec.is_launched:
        return attached_plan(context.settings)  # `compile` speaks of an engine that we launch
    with _blamed(spec, "version"):
        version = spec.version(context)
    with _blamed(spec, "compile"):
        compiled = spec.compile(context.settings, version)
    with _blamed(spec, "launch"):
        return spec.launch(context, compiled)


def context_mode(spec: BackendSpec, context: BackendContext) -> Mode:
    return context.mode or spec.modes[0]


def build_backend(spec: BackendSpec, context: BackendContext) -> GuardedBackend:
    """Build from a whole context. Raises ConfigError for one that the kind does not take.

    `context.settings` has none that the kind cannot honour: who allows one to be dropped leaves it out.
    """
    check_context(spec, context)
    for outcome in compile_plan(spec, context).unsupported:
        raise ConfigError(
            f"backend {spec.kind!r} cannot honour {outcome.setting}={outcome.value!r}: {outcome.why}",
            path=f"engine.{outcome.setting}",
        )
    return GuardedBackend(_created(spec, context))


def check_context(spec: BackendSpec, context: BackendContext) -> None:
    """Raise ConfigError for a mode, a place or settings that the kind does not take; build nothing."""
    if context.mode is not None and context.mode not in spec.modes:
        raise ConfigError(
            f"backend {spec.kind!r} has no mode {context.mode!r}", path="mode", expected=" or ".join(spec.modes)
        )
    for key, problem in unused_keys(spec, context).items():
        raise ConfigError(problem, path=key)
    with _blamed(spec, "check"):
        spec.check(context)


def forecast_lines(spec: BackendSpec, context: BackendContext) -> list[str]:
    """What the kind says it would run with here; starts nothing."""
    with _blamed(spec, "forecast"):
        return list(spec.forecast(context))


def unused_keys(spec: BackendSpec, context: BackendContext) -> dict[str, str]:
    """The keys of an entry that its mode would drop, `options.port` among them, each with what to do about it."""
    mode = context_mode(spec, context)
    options = {
        f"options.{name}": f"{spec.kind!r} in mode {mode!r} would drop this: leave it out, it acts in mode "
        f"{' or '.join(other for other in spec.modes if other in modes)}"
        for name, modes in unused_options(context.options, mode).items()
    }
    return {**_unused_places(spec, context, mode=mode), **options}


def _unused_places(spec: BackendSpec, context: BackendContext, *, mode: Mode) -> dict[str, str]:
    """The keys that say where the engine is."""
    used = spec.in_process_takes if mode == "in_process" else _PLACES[mode]
    given = {"url": context.url, "image": context.image, "venv": context.venv, "environment": context.environment}
    return {
        key: _unused(spec, key, mode=mode)
        for key, value in given.items()
        if value not in (None, {}) and key not in used
    }


_PLACES: Mapping[Mode, tuple[str, ...]] = {
    "external": ("url",),
    "docker": ("image", "environment"),
    "managed": ("venv", "environment"),
    "in_process": (),
}


def _unused(spec: BackendSpec, key: str, *, mode: Mode) -> str:
    problem = f"{spec.kind!r} in mode {mode!r} has no use for this: leave it out"
    others = [other for other in spec.modes if other != mode and key in _PLACES[other]]
    if others:
        return f"{problem}, or set the mode to {' or '.join(others)}"
    if key == "url" and spec.kind != "openai_http":
        return f"{problem}, or reach a server that runs there with kind: openai_http"
    return problem


@dataclass(frozen=True, slots=True)
class InstalledBackend:
    kind: str
    distributions: tuple[str, ...]
    """More than one is an error when the backend is asked for."""


def list_backends() -> list[InstalledBackend]:
    """Every installed kind, without importing any plugin."""
    found: dict[str, list[str]] = {}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        distributions = found.setdefault(canonical_kind(entry_point.name), [])
        if _distribution(entry_point) not in distributions:
            distributions.append(_distribution(entry_point))
    return [InstalledBackend(kind, tuple(sorted(names))) for kind, names in sorted(found.items())]


def find_backend(kind: str) -> BackendSpec:
    """Load the plugin of this kind and return what it offers."""
    wanted = canonical_kind(kind)
    candidates: dict[str, dict[str, EntryPoint]] = {}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        if canonical_kind(entry_point.name) == wanted:
            candidates.setdefault(_distribution(entry_point), {})[entry_point.value] = entry_point
    if not candidates:
        installed = [backend.kind for backend in list_backends()]
        close = get_close_matches(wanted, [*installed, *PACKAGES], n=1)
        raise BackendNotFound(
            wanted, installed=installed, package=PACKAGES.get(wanted), suggestion=close[0] if close else None
        )
    claims = [(distribution, found) for distribution, values in candidates.items() for found in values.values()]
    if len(claims) > 1:
        names = [name if len(candidates[name]) == 1 else f"{name}:{found.value}" for name, found in claims]
        raise DuplicateBackend(wanted, distributions=sorted(names))
    [(distribution, entry_point)] = claims
    return _load(entry_point, kind=wanted, distribution=distribution)


def model_or_default(model: str | None) -> str:
    return model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL


_PLAIN = str.maketrans("-. ", "___")


def canonical_kind(kind: str) -> str:
    plain = kind.strip().lower().translate(_PLAIN)
    return ALIASES.get(plain, plain)


def _load(entry_point: EntryPoint, *, kind: str, distribution: str) -> BackendSpec:
    def broken(problem: str) -> BrokenPlugin:
        return BrokenPlugin(kind, distribution=distribution, problem=problem)

    try:
        plugin = entry_point.load()
    except (Exception, SystemExit) as error:
        raise broken(f"{entry_point.value} cannot be imported: {type(error).__name__}: {error}") from error
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(BackendHooks)
    try:
        manager.register(plugin, name=kind)
        manager.check_pending()
        implementations = manager.hook.enginebay_backend.get_hookimpls()
        spec = manager.hook.enginebay_backend()
    except Exception as error:
        raise broken(f"{type(error).__name__}: {error}") from error
    if not implementations:
        raise broken(f"{entry_point.value} has no function enginebay_backend marked with @enginebay.hookimpl")
    if not isinstance(spec, BackendSpec):
        raise broken(f"enginebay_backend() returned {type(spec).__name__}, expected enginebay.BackendSpec")
    if canonical_kind(spec.kind) != kind:
        raise broken(f"its entry point is called {kind!r}, but it offers the kind {spec.kind!r}")
    return spec


@contextmanager
def _blamed(spec: BackendSpec, function: str) -> Generator[None, None, None]:
    """A typed error of the plugin's own is handed on; anything else is a fault of the plugin."""
    try:
        yield
    except EngineBayError:
        raise
    except Exception as error:
        problem = f"{function}() failed: {type(error).__name__}: {error}"
        raise BrokenPlugin(spec.kind, distribution=_distributions_of(spec.kind), problem=problem) from error


def _created(spec: BackendSpec, context: BackendContext) -> Backend:
    with _blamed(spec, "create"):
        backend = spec.create(context)
    if not isinstance(backend, Backend):  # pyright: ignore[reportUnnecessaryIsInstance] - a plugin may be untyped
        problem = f"create() returned {type(backend).__name__}, which is no enginebay.Backend"
        raise BrokenPlugin(spec.kind, distribution=_distributions_of(spec.kind), problem=problem)
    return backend


def _distributions_of(kind: str) -> str:
    return ", ".join(
        name for backend in list_backends() if backend.kind == canonical_kind(kind) for name in backend.distributions
    )


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else "unknown"


def _sort_keywords(keywords: Mapping[str, object], spec: BackendSpec) -> tuple[dict[str, object], dict[str, object]]:
    from enginebay.config.settings import EngineSettings

    engine: dict[str, object] = {}
    options: dict[str, object] = {}
    for key, value in keywords.items():
        if key in EngineSettings.model_fields:
            engine[key] = value
        elif key in spec.options_model.model_fields:
            options[key] = value
        else:
            known = [*EngineSettings.model_fields, *spec.options_model.model_fields]
            close = get_close_matches(key, known, n=1)
            raise ConfigError(
                "unknown setting",
                path=key,
                expected=f"an engine setting or an option of {spec.kind!r}",
                suggestion=close[0] if close else None,
            )
    return engine, options


def _validated_settings(settings: Mapping[str, object]) -> dict[str, object]:
    from enginebay.config.settings import EngineSettings

    return _validated(EngineSettings, settings, path=("engine",)).given()


def _validated(model: type[Any], values: Mapping[str, object], *, path: tuple[str, ...]) -> Any:
    from pydantic import ValidationError

    from enginebay.config.diagnostics import as_one_error, describe
    from enginebay.config.source import Source

    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = describe(error, model=model, values=values, source=Source(None), path=path)
        raise as_one_error(problems) from error
