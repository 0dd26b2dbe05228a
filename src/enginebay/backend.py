"""The protocol that every engine is reached through, and what a plugin hands in to offer one.

Rules of a stream, kept by every adapter, enforced by `enginebay.plugins` and checked by the conformance suite:

- `generate` is a plain function. It validates and raises `RequestError` at the call, then returns the generator;
  before `start` or after `aclose` it raises `NotStarted`. No work begins before the first `__anext__`, so a stream
  that is never consumed has nothing to clean up.
- A stream yields any number of chunks and exactly one last chunk with `finish_reason` and `usage`,
  or raises one typed error.
- One task consumes a stream. To end it early, cancel that task; that task alone may call `aclose`.
- Clean-up in `finally` is synchronous (abort the transport, send a message without waiting).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from enginebay.clock import Clock
from enginebay.recognition import Recognition
from enginebay.types import (
    BackendInfo,
    Capabilities,
    EngineStats,
    GenerationChunk,
    GenerationRequest,
    Health,
    Prompt,
)

if TYPE_CHECKING:
    from pathlib import Path

    from enginebay.models.progress import ProgressCallback


@runtime_checkable
class Backend(Protocol):
    @property
    def info(self) -> BackendInfo: ...

    async def start(self) -> None:
        """Return when ready. Single use, cancel-safe.

        Raises StartFailed with the engine's last log lines and a likely cause.
        """
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]: ...

    async def health(self) -> Health:
        """Never through the data path: answers while the engine is saturated."""
        ...

    async def stats(self) -> EngineStats: ...

    async def aclose(self) -> None:
        """Idempotent; leaves no process, port, GPU memory or temporary file behind."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """Optional, told by `Feature.COUNT_TOKENS`."""

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids that the engine would see for this prompt."""
        ...


@runtime_checkable
class ResetsPrefixCache(Protocol):
    """Optional, told by `Feature.RESET_PREFIX_CACHE`."""

    async def reset_prefix_cache(self) -> None: ...


# ---------------------------------------------------------------- what a plugin offers

Settings = Mapping[str, object]
"""Portable engine settings by their names in `enginebay.config.settings.EngineSettings`; only those that were set."""

Mode = Literal["managed", "docker", "external", "in_process"]


FILES = "{files}"
"""In a command: the folder that `LaunchPlan.files` are written to when the engine is launched."""


@dataclass(frozen=True, slots=True)
class SettingOutcome:
    """What one portable setting became for one engine."""

    setting: str
    value: object
    outcome: Literal["mapped", "approximated", "unsupported"]
    becomes: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """A portable configuration compiled for one engine and version."""

    outcomes: tuple[SettingOutcome, ...]
    arguments: tuple[str, ...] = ()
    """The engine's own flags, without its executable."""
    keywords: Mapping[str, object] = field(default_factory=dict[str, object])
    """The same for an engine that runs in a process of ours: arguments of its constructor."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Files that the command reads, by name; `FILES` in the command stands for their folder."""
    command: tuple[str, ...] = ()
    """Whole command line, or `docker run` with its arguments; empty for an engine that is not launched."""
    notes: tuple[str, ...] = ()
    """What a reader of the plan should know: a legacy path, an image that is not verified."""

    @property
    def unsupported(self) -> tuple[SettingOutcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.outcome == "unsupported")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendContext:
    """Everything a plugin's `create` is given. Nothing is read from globals."""

    name: str
    model: str
    """A model source (`smollm2-135m`, `hf:...`, a directory), or the served name for an external server."""
    options: Any
    """An instance of the plugin's own `options_model`."""
    settings: Settings
    clock: Clock
    mode: Mode | None = None
    url: str | None = None
    venv: str | None = None
    image: str | None = None
    seed: int = 0
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def attached_plan(settings: Settings) -> LaunchPlan:
    """For a server that runs already: nothing is launched, so no setting can be applied.

    The model's name on the server is of use, and so is the load test's tokenizer.
    """
    return LaunchPlan(outcomes=tuple(_attached_outcome(setting, value) for setting, value in settings.items()))


def _attached_outcome(setting: str, value: object) -> SettingOutcome:
    if setting == "served_model_name":
        return SettingOutcome(setting, value, "mapped", becomes="the model's name in every request")
    if setting == "tokenizer":
        return SettingOutcome(setting, value, "mapped", becomes="used by the load test only, to count tokens")
    why = "the server runs already: set this where it is started"
    return SettingOutcome(setting, value, "unsupported", why=why)


def _accept(context: BackendContext) -> None:
    """The check of a kind that has nothing to add."""


def _nothing_known(context: BackendContext) -> Iterable[str]:
    """The forecast of a kind that has none."""
    return ()


def _newest_version(context: BackendContext) -> str | None:
    """The version of a kind that knows one only."""


def _as_compiled(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    """The launch of a kind that has no command line."""
    return plan


class ConvertModel(Protocol):
    """A Hugging Face directory to the form that this kind's engine reads; of a kind that reads those, there is none."""

    def __call__(
        self, source: Path, *, weight_format: str | None, venv: str | None, progress: ProgressCallback
    ) -> Path:
        """Return the converted directory, from the cache where it was made before.

        weight_format: in the engine's words; None is its default. venv: where the converter is, if not where the kind
        looks by itself. Raises ModelError, or ConfigError for a weight format that is none.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """The answer to the hook `enginebay_backend`: enough to plan with before anything starts."""

    kind: str
    options_model: type[Any]
    """A strict pydantic model of the engine-specific `options:`."""
    capabilities: Callable[[str | None, Any], Capabilities]
    """(engine version or None for the newest known, options) -> what it can do."""
    compile: Callable[[Settings, str | None], LaunchPlan]
    """(portable settings, engine version) -> what they become. Of a kind that we launch it is not asked in mode
    `external`: there `attached_plan` speaks."""
    create: Callable[[BackendContext], Backend]
    modes: tuple[Mode, ...] = ("external",)
    """First is the default."""
    version: Callable[[BackendContext], str | None] = _newest_version
    """The release to compile for, from options or image tag; None is the newest known."""
    launch: Callable[[BackendContext, LaunchPlan], LaunchPlan] = _as_compiled
    """Complete a compiled plan with what depends on the context: model, port, image, the whole command. Pure: the same
    function shows the command in `enginebay plan` and builds the one that is run."""
    check: Callable[[BackendContext], None] = _accept
    """Raise ConfigError for what `create` would refuse; starts and opens nothing, so that a config can be validated.

    `settings` has none that `compile` calls unsupported.
    """
    forecast: Callable[[BackendContext], Iterable[str]] = _nothing_known
    """What an engine in this process's place would run with on this machine, as lines for `enginebay plan`: starts,
    loads and fetches nothing. What is wrong is a line too."""
    in_process_takes: tuple[Literal["venv", "environment"], ...] = ()
    """In mode `in_process`: `environment` where the engine has a process of its own, `venv` where that may run another
    interpreter. One that is not taken is refused."""
    convert: ConvertModel | None = None
    """`enginebay models convert --to KIND`; an engine that needs it does the same by itself when it starts."""
    recognition: Recognition | None = None
    """How a running server of this kind is told from others; None for one that cannot be."""
    evidence: str = "unverified"
    """What this adapter was checked against, in words: shown by `enginebay backends`."""

    @property
    def is_launched(self) -> bool:
        """Whether it has a command line of its own."""
        return self.launch is not _as_compiled
