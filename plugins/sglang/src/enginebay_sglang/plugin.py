"""Entry point of the kind `sglang`."""

from __future__ import annotations

import re
from dataclasses import replace

from enginebay import hookimpl
from enginebay.backend import Backend, BackendContext, BackendSpec
from enginebay.backends.http_engine.address import check_address
from enginebay.backends.http_engine.backend import HttpEngineBackend
from enginebay.backends.launch import at_port, launched_server
from enginebay.backends.launch.second_model import fetch_models
from enginebay.plugins import compile_plan
from enginebay_sglang import command
from enginebay_sglang.api import SglangApi
from enginebay_sglang.capabilities import capabilities
from enginebay_sglang.options import SglangOptions
from enginebay_sglang.recognise import RECOGNITION
from enginebay_sglang.served import served_names
from enginebay_sglang.settings import NEWEST_VERSION, compile_settings

_RELEASE = re.compile(r":v?(\d+\.\d+\.\d+\w*)")


@hookimpl
def enginebay_backend() -> BackendSpec:
    return SPEC


def version(context: BackendContext) -> str | None:
    """Of the options, else of the image's tag."""
    options: SglangOptions = context.options
    found = _RELEASE.search(context.image or "")
    return options.version or (found.group(1) if found else None)


def check(context: BackendContext) -> None:
    if context.mode == "external":
        check_address(context)
        return
    command.check(context)


def create(context: BackendContext) -> Backend:
    options: SglangOptions = context.options
    names = served_names(context)
    model, api = names[0], SglangApi(name=context.name, model_names=names)
    declared = capabilities(None, options)
    if context.mode == "external":
        return HttpEngineBackend(context, kind=SPEC.kind, api=api, capabilities=declared, model=model)
    server = launched_server(
        context,
        compile_plan(SPEC, context),
        with_port=lambda port: compile_plan(SPEC, at_port(context, port)),
        install=f"pip install sglang=={NEWEST_VERSION}",
        fetch=lambda source: fetch_models(source, context.settings),
    )
    here = replace(context, url=None)
    return HttpEngineBackend(here, kind=SPEC.kind, api=api, capabilities=declared, model=model, server=server)


SPEC = BackendSpec(
    kind="sglang",
    options_model=SglangOptions,
    capabilities=capabilities,
    compile=compile_settings,
    create=create,
    modes=("managed", "external", "docker"),
    version=version,
    launch=command.complete,
    check=check,
    recognition=RECOGNITION,
    evidence="contract checked (0.5.23): against a simulator; has not run on a GPU",
)
