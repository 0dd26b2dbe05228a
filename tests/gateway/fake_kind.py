"""A kind of backend that configs of a test may name: `fake`, a FakeBackend that says ` t0 t1 ...` at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace

import pytest
from pydantic import BaseModel, ConfigDict

from enginebay import hookimpl
from enginebay.backend import BackendContext, BackendSpec, LaunchPlan
from enginebay.testing.fake_backend import ALL_FEATURES, FakeBackend, Step, say_tokens
from enginebay.types import GenerationRequest

Script = Callable[[GenerationRequest], Iterable[Step]]


class Options(BaseModel):
    """Those of any kind that it stands in for."""

    model_config = ConfigDict(frozen=True, extra="allow")


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


def install_fake_kind(monkeypatch: pytest.MonkeyPatch, *, names: Sequence[str] = ("fake",)) -> FakeKind:
    """names: other kinds that it stands in for."""
    kind = FakeKind()
    entry_points = [_installed(monkeypatch, name, kind) for name in names]
    monkeypatch.setattr("enginebay.plugins.entry_points", lambda group: entry_points)
    return kind


def _installed(monkeypatch: pytest.MonkeyPatch, name: str, kind: FakeKind) -> EntryPoint:
    spec = BackendSpec(
        kind=name,
        options_model=Options,
        capabilities=lambda version, options: ALL_FEATURES,
        compile=lambda settings, version: LaunchPlan(outcomes=()),
        create=kind.create,
        modes=("external",) if name == "openai_http" else ("in_process",),
    )

    def enginebay_backend() -> BackendSpec:
        return spec

    module = ModuleType(f"fake_plugin_{name}")
    vars(module)["enginebay_backend"] = hookimpl(enginebay_backend)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    found = EntryPoint(name=name, value=module.__name__, group="enginebay.backends")
    vars(found).update(dist=SimpleNamespace(name=f"enginebay-{name}"))  # as importlib.metadata does
    return found
