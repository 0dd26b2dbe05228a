"""Entry point of the kind `reference`: our own engine, in a process of its own."""

from __future__ import annotations

from enginebay.backend import Backend, BackendContext, BackendSpec
from enginebay.backends.reference.capabilities import capabilities
from enginebay.backends.reference.launch_plan import compile_settings
from enginebay.backends.reference.options import ReferenceOptions
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


def _create(context: BackendContext) -> Backend:
    try:
        from enginebay.backends.reference.backend import ReferenceBackend
        from enginebay.backends.reference.engine_process import EngineProcess
    except ImportError as error:
        raise PluginError(
            f"the reference engine lacks a package ({error.name}): pip install 'enginebay[engine]'"
        ) from error
    return ReferenceBackend(context, make_process=EngineProcess)
