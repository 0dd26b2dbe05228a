"""TGI as a `Backend`: on a server that runs already, or on one of our own."""

from __future__ import annotations

from enginebay.backend import Backend, BackendContext, LaunchPlan
from enginebay.backends.http_engine.backend import HttpEngineBackend
from enginebay.backends.launch import at_port, launched_server
from enginebay_tgi.api import TgiApi
from enginebay_tgi.capabilities import capabilities
from enginebay_tgi.command import launch, secrets, version
from enginebay_tgi.options import TgiOptions
from enginebay_tgi.settings import compile_settings

KIND = "tgi"


def create(context: BackendContext) -> Backend:
    options: TgiOptions = context.options
    if context.mode == "external":
        server = None
    else:
        compiled = compile_settings(context.settings, version(context))

        def with_port(port: int) -> LaunchPlan:
            return launch(at_port(context, port), compiled)

        server = launched_server(context, compiled, with_port=with_port, environment=secrets(options))
    return HttpEngineBackend(
        context,
        kind=KIND,
        api=TgiApi(name=context.name),
        capabilities=capabilities(version(context), options),
        server=server,
    )
