"""From a config to backends: each name is resolved, checked against its plugin, and built.

What is wrong is told with the file, the YAML path and the line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from enginebay.backend import BackendContext, BackendSpec, LaunchPlan
from enginebay.clock import Clock, MonotonicClock
from enginebay.config.diagnostics import as_one_error, describe
from enginebay.config.known_keys import nearest
from enginebay.config.models import BackendEntry, Config
from enginebay.config.resolution import ResolvedBackend, entry_names, resolve_backend
from enginebay.config.secret import revealed
from enginebay.config.source import YamlPath, dotted
from enginebay.errors import ConfigError, EngineBayError
from enginebay.guard import GuardedBackend
from enginebay.plugins import (
    PACKAGES,
    build_backend,
    canonical_kind,
    check_context,
    compile_plan,
    find_backend,
    list_backends,
    model_or_default,
    unused_keys,
)

__all__ = ["CheckedBackend", "check_backend", "config_problems", "configured_backend", "entry_names"]
ONE_ENGINE = "1: only the models of `gateway` have several copies of an engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedBackend:
    """A name of a config together with what its plugin makes of it."""

    resolved: ResolvedBackend
    spec: BackendSpec
    options: Any
    """An instance of the plugin's options_model."""
    plan: LaunchPlan
    context: BackendContext
    """What the plugin builds from; settings that it cannot honour are not among them."""


def configured_backend(
    config: Config,
    name: str | None = None,
    *,
    clock: Clock | None = None,
    start_timeout_s: float | None = None,
) -> GuardedBackend:
    """Build the backend called `name`, else the config's own; it is not started yet.

    start_timeout_s: in place of the kind's own default, where the entry sets none and the kind has this option.
    Raises ConfigError where the config asks for what the kind cannot do, PluginError where the kind cannot be loaded.
    """
    checked = check_backend(config, name, clock=clock)
    if problems := _dropped_settings(config, checked):
        raise as_one_error(problems)
    try:
        return build_backend(checked.spec, _with_start_timeout(checked.context, start_timeout_s))
    except ConfigError as error:
        raise _located(config, checked.resolved, error) from error


def _with_start_timeout(context: BackendContext, start_timeout_s: float | None) -> BackendContext:
    options: BaseModel = context.options
    if start_timeout_s is None or "start_timeout_s" in options.model_fields_set:
        return context
    if "start_timeout_s" not in type(options).model_fields:
        return context
    return replace(context, options=options.model_copy(update={"start_timeout_s": start_timeout_s}))


def check_backend(config: Config, name: str | None = None, *, clock: Clock | None = None) -> CheckedBackend:
    """Resolve a name, load its plugin and let it check mode, options and address; build nothing."""
    resolved = resolve_backend(config, name)
    spec = find_backend(_known_kind(config, resolved, name))
    _check_mode(config, resolved, spec)
    options = _checked_options(config, resolved, spec)
    asked = _context(resolved, spec, clock=clock or MonotonicClock())
    if unused := unused_keys(spec, asked):
        raise as_one_error([_error(config, _path_of(resolved, key), problem) for key, problem in unused.items()])
    try:
        plan = compile_plan(spec, asked)
    except ConfigError as error:
        raise _located(config, resolved, error) from error
    context = _without_dropped(asked, plan)
    try:
        check_context(spec, context)
    except ConfigError as error:
        raise _located(config, resolved, error) from error
    return CheckedBackend(resolved=resolved, spec=spec, options=options, plan=plan, context=context)


def _path_of(resolved: ResolvedBackend, key: str) -> YamlPath:
    return (*resolved.path, *key.split("."))


def _without_dropped(context: BackendContext, plan: LaunchPlan) -> BackendContext:
    dropped = {outcome.setting for outcome in plan.unsupported}
    return replace(context, settings={key: value for key, value in context.settings.items() if key not in dropped})


def _context(resolved: ResolvedBackend, spec: BackendSpec, *, clock: Clock) -> BackendContext:
    entry = resolved.entry
    return BackendContext(
        name=resolved.name,
        model=model_or_default(_plain(resolved.model)),
        options=spec.options_model.model_validate({key: revealed(value) for key, value in entry.options.items()}),
        settings=_plain_settings(resolved),
        clock=clock,
        mode=entry.mode,
        url=_plain(entry.url),
        venv=_plain(entry.venv),
        image=_plain(entry.image),
        seed=resolved.engine.seed or 0,
        environment={key: str(value) for key, value in entry.environment.items()},
    )


def config_problems(config: Config) -> list[EngineBayError]:
    """Everything that is wrong with the names of a config; empty for a sound one."""
    problems: list[EngineBayError] = []
    pooled = () if config.gateway is None else config.gateway.backend_names
    for name in entry_names(config):
        try:
            checked = check_backend(one_replica(config, name) if name in pooled else config, name)
            problems += _dropped_settings(config, checked)
        except EngineBayError as error:
            problems += getattr(error, "problems", (error,))
    return problems


def one_replica(config: Config, name: str) -> Config:
    """The same config with one copy of this entry: a backend is one engine, and a pool makes several."""
    entry = config.backends.get(name)
    if entry is None:
        return config
    entries = {**config.backends, name: entry.model_copy(update={"replicas": 1})}
    return config.model_copy(update={"backends": entries})


def _known_kind(config: Config, resolved: ResolvedBackend, asked: str | None) -> str:
    kind = canonical_kind(resolved.kind)
    kinds = sorted({backend.kind for backend in list_backends()} | set(PACKAGES))
    if kind in kinds:
        return kind
    if resolved.path:
        has_kind = resolved.entry.kind is not None
        path = resolved.path_of("kind") if has_kind else resolved.path
        hint = "" if has_kind else ": give the entry a `kind`"
        raise _error(
            config,
            path,
            f"there is no kind of backend called {resolved.kind!r}{hint}",
            expected=f"one of {', '.join(kinds)}",
            suggestion=nearest(kind, kinds),
        )
    names = [*config.backends, *kinds]
    raise _error(
        config,
        ("backend",) if asked in (None, config.backend) else (),
        f"{resolved.name!r} is neither an entry of `backends` nor a kind of backend",
        expected=f"one of {', '.join(names)}",
        suggestion=nearest(resolved.name, names) or nearest(kind, names),
    )


def _check_mode(config: Config, resolved: ResolvedBackend, spec: BackendSpec) -> None:
    mode, replicas = resolved.entry.mode, resolved.entry.replicas
    if mode is not None and mode not in spec.modes:
        expected = " or ".join(spec.modes)
        raise _error(config, resolved.path_of("mode"), f"{spec.kind!r} has no mode {mode!r}", expected=expected)
    if replicas > 1:
        raise _error(config, resolved.path_of("replicas"), f"found {replicas}", expected=ONE_ENGINE)


def _checked_options(config: Config, resolved: ResolvedBackend, spec: BackendSpec) -> Any:
    options = dict(resolved.entry.options)
    try:
        return spec.options_model.model_validate(options)
    except ValidationError as error:
        path = resolved.path_of("options")
        problems = describe(error, model=spec.options_model, values=options, source=config.source, path=path)
        raise as_one_error(problems) from error


def _dropped_settings(config: Config, checked: CheckedBackend) -> list[ConfigError]:
    """A setting that the engine cannot honour is an error, unless the entry allows it by name."""
    resolved = checked.resolved
    return [
        _error(
            config,
            resolved.engine_path(outcome.setting),
            f"backend {resolved.name!r} cannot honour this{': ' + outcome.why if outcome.why else ''}; leave it out, "
            f"set it to null in the entry, or name it in the entry's allow_unsupported",
        )
        for outcome in checked.plan.unsupported
        if outcome.setting not in resolved.entry.allow_unsupported
    ]


def _located(config: Config, resolved: ResolvedBackend, error: ConfigError) -> ConfigError:
    """What a plugin says of one of an entry's keys, with the place in the file."""
    if error.file is not None:
        return error
    keys = (error.path or "").split(".")
    path: YamlPath = ("backend",) if resolved.name == config.backend else ()
    if resolved.path:
        path = (*resolved.path, *keys) if keys[0] in BackendEntry.model_fields else resolved.path
    problem = config.source.redact(error.problem)
    return _error(config, path, problem, expected=error.expected, suggestion=error.suggestion)


def _error(
    config: Config, path: YamlPath, problem: str, *, expected: str | None = None, suggestion: str | None = None
) -> ConfigError:
    source = config.source
    return ConfigError(
        problem,
        file=source.file,
        path=dotted(path) or None,
        line=source.line(path) if path else None,
        expected=expected,
        suggestion=suggestion,
    )


def _plain(text: str | None) -> str | None:
    # engines and codecs take exactly str
    return None if text is None else str(text)


def _plain_settings(resolved: ResolvedBackend) -> dict[str, object]:
    return {key: revealed(value) for key, value in resolved.engine.given().items()}
