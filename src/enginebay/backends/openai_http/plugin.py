"""Entry point of the kind `openai_http`: a server that runs already and speaks the OpenAI API."""

from __future__ import annotations

from enginebay.backend import Backend, BackendContext, BackendSpec, LaunchPlan, SettingOutcome, Settings
from enginebay.backends.openai_http.backend import OpenAIHttpBackend
from enginebay.backends.openai_http.options import OpenAIHttpOptions
from enginebay.errors import ConfigError
from enginebay.hookspecs import hookimpl
from enginebay.types import Capabilities
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
        evidence="ran real: against the server of this package; other servers by their contracts",
    )


def capabilities(version: str | None, options: OpenAIHttpOptions) -> Capabilities:
    """The most that may be found: which dialect `auto` is, only the server knows."""
    return ENGINEBAY.capabilities if options.dialect == "auto" else DIALECTS[options.dialect].capabilities


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    """Nothing is launched, so no setting can be applied; only the model's name on the server is of use."""
    return LaunchPlan(outcomes=tuple(_outcome(setting, value) for setting, value in settings.items()))


def create(context: BackendContext) -> Backend:
    if not context.url:
        raise ConfigError("an openai_http backend needs the address of its server", path="url", expected="http://...")
    for outcome in compile_settings(context.settings, None).unsupported:
        raise ConfigError(outcome.why, path=f"engine.{outcome.setting}")
    return OpenAIHttpBackend(context)


def _outcome(setting: str, value: object) -> SettingOutcome:
    if setting == "served_model_name":
        return SettingOutcome(setting, value, "mapped", becomes="the field `model` of every request")
    why = "the server runs already: set this where it is started"
    return SettingOutcome(setting, value, "unsupported", why=why)
