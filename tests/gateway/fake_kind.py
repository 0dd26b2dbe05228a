"""A kind of backend that configs of a test may name: `fake`, a FakeBackend that says ` t0 t1 ...` at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType

import pytest
from pydantic import BaseModel, ConfigDict

from enginebay import hookimpl
from enginebay.backend import BackendContext, BackendSpec, LaunchPlan
from enginebay.testing.fake_backend import ALL_FEATURES, FakeBackend, Step, say_tokens
from enginebay.types import GenerationRequest

Script = Callable[[GenerationRequest], Iterable[Step]]


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class FakeKind:
    """backends: all that were made, by the name of their entry, in that order."""

    def __init__(self) -> None:
        self.backends: dict[str, list[FakeBackend]] = {}
        self.script: Script = say_tokens

    def create(self, context: BackendContext) -> FakeBackend:
        backend = FakeBackend(
            script=lambda request: self.script(request), clock=context.clock, name=context.name, model=context.model
        )
        self.backends.setdefault(context.name, []).append(backend)
        return backend

    def latest(self, name: str) -> FakeBackend:
        return self.backends[name][-1]


def install_fake_kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    from installed_plugins import entry_point, install

    kind = FakeKind()
    spec = BackendSpec(
        kind="fake",
        options_model=Options,
        capabilities=lambda version, options: ALL_FEATURES,
        compile=lambda settings, version: LaunchPlan(outcomes=()),
        create=kind.create,
        modes=("in_process",),
    )
    module = ModuleType("fake_kind_plugin")
    vars(module)["enginebay_backend"] = hookimpl(_answering(spec))
    monkeypatch.setitem(__import__("sys").modules, "fake_kind_plugin", module)
    install(monkeypatch, entry_point("fake", module="fake_kind_plugin", distribution="enginebay-fake"))
    return kind


def _answering(spec: BackendSpec) -> Callable[[], BackendSpec]:
    def enginebay_backend() -> BackendSpec:
        return spec

    return enginebay_backend
