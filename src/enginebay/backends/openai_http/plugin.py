"""Entry point of the kind `openai_http`: a server that runs already and speaks the OpenAI API."""

from __future__ import annotations

from enginebay.backend import Backend, BackendContext, BackendSpec, LaunchPlan, Settings, attached_plan
from enginebay.backends.openai_http.backend import OpenAIHttpBackend
from enginebay.backends.openai_http.options import OpenAIHttpOptions
from enginebay.errors import ConfigError
from enginebay.hookspecs import hookimpl
from enginebay.recognition import Answers, Recognition, owner_evidence
from enginebay.types import Capabilities
from enginebay.wire.http_client import check_url
from enginebay.wire.openai_dialects import DIALECTS, ENGINEBAY


@hookimpl
def enginebay_backend() -> BackendSpec:
    return BackendSpec(
        kind="openai_http",
        options_model=OpenAIHttpOptions,
        capabilities=capabilities,
        compile=compile_settings,
        create=create,
        modes=("external",),
        check=check,
        recognition=Recognition(evidence=is_our_server),
        evidence="ran real: against the server of this package (0.1.0; 2026-11-22; 2-core x86-64 CPU); "
        "other servers by their contracts",
    )


def capabilities(version: str | None, options: OpenAIHttpOptions) -> Capabilities:
    """The most that may be found: which dialect `auto` is, only the server knows."""
    return ENGINEBAY.capabilities if options.dialect == "auto" else DIALECTS[options.dialect].capabilities


def is_our_server(answers: Answers) -> str | None:
    """Any other server that lists models as OpenAI does is reached through this kind too, when nobody else knows it."""
    return owner_evidence(answers, ENGINEBAY.name)


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    return attached_plan(settings)


def check(context: BackendContext) -> None:
    if not context.url:
        raise ConfigError("an openai_http backend needs the address of its server", path="url", expected="http://...")
    check_url(context.url)


def create(context: BackendContext) -> Backend:
    return OpenAIHttpBackend(context)
