"""Backend kinds that only these tests have, entered by the same door as a third party's."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

import enginebay.plugins
from enginebay.backend import BackendContext, BackendSpec, LaunchPlan, SettingOutcome, Settings
from enginebay.errors import StartFailed
from enginebay.hookspecs import hookimpl
from enginebay.types import (
    BackendInfo,
    Capabilities,
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    Usage,
)

FEATURES = Capabilities(features=frozenset({Feature.TEXT_PROMPT, Feature.CHAT, Feature.SEED}))


class EchoOptions(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    api_key: str = Field(default="", description="Key of the engine.")
    retries: int = Field(default=0, ge=0, description="Attempts.")
    fails: bool = Field(default=False, description="Fail at start.")


class EchoBackend:
    """Answers with what it was built from, one word a chunk."""

    def __init__(self, context: BackendContext) -> None:
        self.context = context
        self.info = BackendInfo(kind="echo", name=context.name, model=context.model, capabilities=FEATURES)

    async def start(self) -> None:
        if self.context.options.fails:
            raise StartFailed("the engine did not start", likely_cause="it was told to fail")

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        prompt: Any = request.prompt
        said = getattr(prompt, "text", None) or f"chat:{prompt.messages[-1].content}"
        words = [f"{said} ", f"{self.context.model} ", f"seed={request.sampling.seed}"]
        for number, word in enumerate(words):
            yield GenerationChunk(text=word, num_tokens=1, received_at=self.context.clock.now() + number)
        yield GenerationChunk(
            received_at=self.context.clock.now() + len(words),
            usage=Usage(num_prompt_tokens=2, num_output_tokens=len(words)),
            finish_reason=FinishReason.STOP,
        )

    async def health(self) -> Health:
        return Health(HealthState.READY)

    async def stats(self) -> EngineStats:
        return EngineStats()

    async def aclose(self) -> None:
        pass


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    outcomes = tuple(
        SettingOutcome(name, value, "unsupported", why="echoes have no batches")
        if name == "max_num_seqs"
        else SettingOutcome(name, value, "mapped", becomes=f"--{name} {value}")
        for name, value in settings.items()
    )
    command = ("echo-server", *(f"--{name}={value}" for name, value in settings.items() if name != "max_num_seqs"))
    return LaunchPlan(outcomes=outcomes, command=command, environment={"ECHO_TOKEN": "hidden", "THREADS": "2"})


def spec() -> BackendSpec:
    return BackendSpec(
        kind="echo",
        options_model=EchoOptions,
        capabilities=lambda version, options: FEATURES,
        compile=compile_settings,
        create=EchoBackend,
        modes=("external", "managed"),
        evidence="only a test",
    )


@pytest.fixture
def echo_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the kind `echo`, and `broken`, whose module does not exist, beside the built-in ones and no others."""
    module = ModuleType("enginebay_echo")
    module.enginebay_backend = hookimpl(spec)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "enginebay_echo", module)
    group = "enginebay.backends"
    fakes = [EntryPoint("echo", "enginebay_echo", group), EntryPoint("broken", "enginebay_no_such_module", group)]
    for fake in fakes:
        vars(fake).update(dist=SimpleNamespace(name="enginebay-echo"))
    installed = enginebay.plugins.entry_points(group=group)
    real = [entry for entry in installed if entry.dist is not None and entry.dist.name == "enginebay"]
    monkeypatch.setattr(enginebay.plugins, "entry_points", lambda group: [*real, *fakes])
