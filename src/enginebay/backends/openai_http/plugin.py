"""Entry point of the kind `openai_http`: a server that runs already and speaks the OpenAI API."""

from __future__ import annotations

from enginebay.backend import Backend, BackendContext, BackendSpec, LaunchPlan, SettingOutcome, Settings
from enginebay.backends.openai_http.backend import OpenAIHttpBackend
from enginebay.backends.openai_http.options import OpenAIHttpOptions
from enginebay.errors import ConfigError
from enginebay.hookspecs import hookimpl
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
        evidence="ran real: against the server of this package; other servers by their contracts",
    )


def capabilities(version: str | None, options: OpenAIHttpOptions) -> Capabilities:
    """The most that may be found: which dialect `auto` is, only the server knows."""
    return ENGINEBAY.capabilities if options.dialect == "auto" else DIALECTS[options.dialect].capabilities


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    """Nothing is launched, so no setting can be applied.

    The model's name on the server is of use, and so is the load test's tokenizer.
    """
    return LaunchPlan(outcomes=tuple(_outcome(setting, value) for setting, value in settings.items()))


def check(context: BackendContext) -> None:
    if not context.url:
        raise ConfigError("an openai_http backend needs the address of its server", path="url", expected="http://...")
    check_url(context.url)


def create(context: BackendContext) -> Backend:
    for outcome in compile_settings(context.settings, None).unsupported:
        raise ConfigError(outcome.why, path=f"engine.{outcome.setting}")
    return OpenAIHttpBackend(context)


def _outcome(setting: str, value: object) -> SettingOutcome:
    if setting == "served_model_name":
        return SettingOutcome(setting, value, "mapped", becomes="the field `model` of every request")
    if setting == "tokenizer":
        return SettingOutcome(setting, value, "mapped", becomes="used by the load test only, to count tokens")
    why = "the server runs already: set this where it is started"
    return SettingOutcome(setting, value, "unsupported", why=why)
