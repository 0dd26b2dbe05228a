"""A third party's backend: each engine of it is a process that does nothing; its words are made up here."""

import asyncio
import os
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from enginebay.backend import BackendSpec, LaunchPlan
from enginebay.errors import StartFailed
from enginebay.hookspecs import hookimpl
from enginebay.types import (
    BackendInfo,
    Capabilities,
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    Health,
    HealthState,
    Usage,
)

FEATURES = Capabilities(features=frozenset({Feature.TEXT_PROMPT, Feature.CHAT}))


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    starts_with: str | None = None
    """A file; until there is one, it loads."""
    fails: bool = False
    lingers: bool = False
    """It never has closed."""


class Nest:
    def __init__(self, context):
        self.info = BackendInfo(kind="nest", name=context.name, model=context.model, capabilities=FEATURES)
        self.options = context.options
        self.engine = None

    async def start(self):
        self.engine = subprocess.Popen(["sleep", "100"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
        print(f"{self.info.name} loads", flush=True)
        if self.options.starts_with is not None:
            await there_is(self.options.starts_with)
        if self.options.fails:
            raise StartFailed(f"{self.info.name} has no eggs", likely_cause="a fault on request")

    async def generate(self, request):
        """The prompt `until FILE` is answered with tokens until there is that file, every other with its own name."""
        words = request.prompt.text.split()
        num_tokens = 0
        while words[0] == "until" and not os.path.exists(words[1]):  # noqa: ASYNC240
            num_tokens += 1
            yield GenerationChunk(text="cheep ", num_tokens=1, received_at=0.0)
            await asyncio.sleep(0.01)
        usage = Usage(len(words), num_tokens + 1)
        yield GenerationChunk(
            text=self.info.name, num_tokens=1, received_at=0.0, usage=usage, finish_reason=FinishReason.STOP
        )

    async def health(self):
        return Health(HealthState.READY)

    async def stats(self):
        return EngineStats()

    async def aclose(self):
        if self.options.lingers:
            print(f"{self.info.name} lingers", flush=True)
            await asyncio.Event().wait()
        if self.engine is not None:
            self.engine.kill()
            self.engine.wait()


async def there_is(path):
    while not Path(path).exists():  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(0.01)


@hookimpl
def enginebay_backend():
    return BackendSpec(
        kind="nest", options_model=Options, modes=("in_process",),
        capabilities=lambda version, options: FEATURES,
        compile=lambda settings, version: LaunchPlan(outcomes=()), create=Nest,
    )  # fmt: skip
