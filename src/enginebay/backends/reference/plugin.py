"""Entry point of the kind `reference`: our own engine, in a process of its own."""

from __future__ import annotations

from enginebay.backend import Backend, BackendContext, BackendSpec
from enginebay.backends.reference.capabilities import capabilities
from enginebay.backends.reference.launch_plan import compile_settings
from enginebay.backends.reference.options import ReferenceOptions
from enginebay.backends.reference.quantization_names import engine_quantization
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
    kernels, quantization = context.options.kernels, context.settings.get("quantization")
    if quantization is None or kernels in ("auto", "plain"):
        return
    meant = engine_quantization(quantization)
    if kernels == "packed" or meant == "int8_weight_only":
        raise ConfigError(
            f"kernels {kernels} have no {meant}",
            path="options.kernels",
            expected="auto, native or plain" if meant == "int8" else "auto or plain",
        )


def _create(context: BackendContext) -> Backend:
    try:
        from enginebay.backends.reference.backend import ReferenceBackend
        from enginebay.backends.reference.engine_process import EngineProcess
    except ImportError as error:
        raise PluginError(
            f"the reference engine lacks a package ({error.name}): pip install 'enginebay[engine]'"
        ) from error
    return ReferenceBackend(context, make_process=EngineProcess)
