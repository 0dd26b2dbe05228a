"""Entry point of the kind `reference`: our own engine, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable

from enginebay.backend import Backend, BackendContext, BackendSpec
from enginebay.backends.reference.capabilities import capabilities
from enginebay.backends.reference.launch_plan import compile_settings
from enginebay.backends.reference.options import ReferenceOptions
from enginebay.backends.reference.quantization_names import engine_quantization, is_known
from enginebay.errors import ConfigError, PluginError
from enginebay.hookspecs import hookimpl


@hookimpl
def enginebay_backend() -> BackendSpec:
    return BackendSpec(
        kind="reference",
        options_model=ReferenceOptions,
        capabilities=capabilities,
        compile=compile_settings,
        create=_create,
        modes=("in_process",),
        check=_check,
        forecast=_forecast,
        in_process_takes=("environment",),
        evidence="ran real: the engine of this package, on CPU; greedy output checked against transformers",
    )


def _check(context: BackendContext) -> None:
    if context.settings.get("enable_prefix_caching") and context.options.policy == "static":
        raise ConfigError(
            "a static batch computes in place what it has already, so its blocks cannot be shared",
            path="engine.enable_prefix_caching",
            expected="false, or another policy",
        )
    _check_kv_cache_size(context)
    _check_speculation(context)
    _check_kernels(context)
    _check_idle_options(context)


def _check_kv_cache_size(context: BackendContext) -> None:
    sizes = {
        "options.num_blocks": context.options.num_blocks,
        "options.kv_cache_bytes": context.options.kv_cache_bytes,
        "engine.gpu_memory_fraction": context.settings.get("gpu_memory_fraction"),
    }
    paths = [path for path, value in sizes.items() if value is not None]
    if len(paths) > 1:
        raise ConfigError(
            f"the KV cache is given {len(paths)} sizes ({', '.join(paths)})",
            path=paths[-1],
            expected=f"one of {', '.join(sizes)}; null takes back what is set for all backends",
        )


def _check_speculation(context: BackendContext) -> None:
    asked = {
        "engine.speculative_ngram": context.settings.get("speculative_ngram"),
        "engine.speculative_draft_model": context.settings.get("speculative_draft_model"),
        "options.speculative_self_draft": context.options.speculative_self_draft,
    }
    paths = [path for path, value in asked.items() if value is not None]
    if len(paths) > 1:
        raise ConfigError(
            f"one thing drafts for a model, not {len(paths)} ({', '.join(paths)})",
            path=paths[-1],
            expected=f"one of {', '.join(asked)}",
        )
    if paths and context.options.policy == "static":
        raise ConfigError(
            "the members of a static batch move on together, one token a step: they cannot speculate",
            path=paths[0],
            expected="another policy, or nothing that drafts",
        )


def _check_kernels(context: BackendContext) -> None:
    """What no machine can have; what this one cannot have is found when the engine starts."""
    kernels, meant = context.options.kernels, _quantization(context)
    if meant is None or kernels in ("auto", "plain"):
        return
    if kernels == "packed" or meant == "int8_weight_only":
        raise ConfigError(
            f"kernels {kernels} have no {meant}",
            path="options.kernels",
            expected="auto, native or plain" if meant == "int8" else "auto or plain",
        )


def _check_idle_options(context: BackendContext) -> None:
    """An option that nothing reads in this combination was meant for another one."""
    options, settings = context.options, context.settings
    has_draft_model = bool(settings.get("speculative_draft_model") or options.speculative_self_draft)
    readers = {
        "batch_rule": (options.policy == "dynamic", "policy: dynamic"),
        "static_batch_timeout_s": (options.policy == "static", "policy: static"),
        "smooth_int8": (_quantization(context) == "int8", "engine.quantization: int8"),
        "speculative_num_tokens": (has_draft_model, "a draft model, or speculative_self_draft"),
        "speculative_adaptive": (has_draft_model or bool(settings.get("speculative_ngram")), "something that drafts"),
    }
    for name, (is_read, reader) in readers.items():
        if not is_read and getattr(options, name) != type(options).model_fields[name].default:
            raise ConfigError(
                f"nothing reads {name} here", path=f"options.{name}", expected=f"{reader} beside it, or leave it out"
            )


def _quantization(context: BackendContext) -> str | None:
    """In the engine's own word; None where there is none, or one that is refused by its name."""
    value = context.settings.get("quantization")
    return engine_quantization(value) if is_known(value) else None


def _forecast(context: BackendContext) -> Iterable[str]:
    try:
        from enginebay.backends.reference.forecast import forecast_lines
    except ImportError as error:
        return (f"kernels and memory: not known without {error.name}: pip install 'enginebay[engine]'",)
    return forecast_lines(context)


def _create(context: BackendContext) -> Backend:
    try:
        from enginebay.backends.reference.backend import ReferenceBackend
        from enginebay.backends.reference.engine_process import EngineProcess
    except ImportError as error:
        raise PluginError(
            f"the reference engine lacks a package ({error.name}): pip install 'enginebay[engine]'"
        ) from error
    return ReferenceBackend(context, make_process=EngineProcess)
