"""Entry point of the kind `llama_cpp`: llama.cpp's own server."""

from __future__ import annotations

import re
from dataclasses import replace

from enginebay import hookimpl
from enginebay.backend import Backend, BackendContext, BackendSpec
from enginebay.backends.http_engine.address import check_address
from enginebay.backends.http_engine.backend import HttpEngineBackend
from enginebay.backends.launch import at_port, launched_server
from enginebay.plugins import compile_plan
from enginebay_llama_cpp import command
from enginebay_llama_cpp.api import LlamaCppApi
from enginebay_llama_cpp.capabilities import capabilities
from enginebay_llama_cpp.options import LlamaCppOptions
from enginebay_llama_cpp.recognise import RECOGNITION
from enginebay_llama_cpp.settings import compile_settings

_BUILD = re.compile(r"b\d+")


@hookimpl
def enginebay_backend() -> BackendSpec:
    return SPEC


def version(context: BackendContext) -> str | None:
    """Of the options, else the build number in the image's tag."""
    options: LlamaCppOptions = context.options
    tag = (context.image or "").rpartition(":")[2]
    found = _BUILD.search(tag) if context.image else None
    return options.version or (found.group() if found else None)


def check(context: BackendContext) -> None:
    if context.mode == "external":
        check_address(context)
        return
    command.check(context)


def create(context: BackendContext) -> Backend:
    options: LlamaCppOptions = context.options
    model = str(context.settings.get("served_model_name") or context.model)
    api = LlamaCppApi(name=context.name)
    declared = capabilities(None, options)
    if context.mode == "external":
        return HttpEngineBackend(context, kind=SPEC.kind, api=api, capabilities=declared, model=model)
    secrets = {} if options.api_key is None else {command.API_KEY_VARIABLE: options.api_key.get_secret_value()}
    server = launched_server(
        context,
        compile_plan(SPEC, context),
        with_port=lambda port: compile_plan(SPEC, at_port(context, port)),
        environment=secrets,
        install="python build_llama_server.py (beside this plugin), or a release of llama.cpp",
        fetch=lambda _: command.fetch(context),
    )
    here = replace(context, url=None)
    return HttpEngineBackend(here, kind=SPEC.kind, api=api, capabilities=declared, model=model, server=server)


SPEC = BackendSpec(
    kind="llama_cpp",
    options_model=LlamaCppOptions,
    capabilities=capabilities,
    compile=compile_settings,
    create=create,
    modes=("managed", "external", "docker"),
    version=version,
    launch=command.complete,
    check=check,
    recognition=RECOGNITION,
    evidence="ran real (llama-server of commit 0c1e57098, built here for AVX2, mode managed; 2026-11-22, 2-core x86-64 "
    "CPU; on a busy machine a request cancelled before its first token may hold its slot beyond 10 s); "
    "did not run: docker, external, GPUs, release b11434 itself",
)
