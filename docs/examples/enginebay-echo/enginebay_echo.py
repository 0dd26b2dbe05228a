"""A backend in one file: it answers with the words of its prompt, one token for each word.

Replace `EchoBackend._next_word` by your engine's next tokens, and declare what it can do: the rest stays much the same.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from enginebay import (
    BackendContext,
    BackendInfo,
    BackendSpec,
    Capabilities,
    Chat,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    LaunchPlan,
    SettingOutcome,
    Text,
    Usage,
    hookimpl,
)
from enginebay.errors import NotStarted
from enginebay.types import EngineStats, Health, HealthState, TextPart


class EchoOptions(BaseModel):
    """`options:` of this backend, checked before anything starts. Strict: a misspelt option is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    words_per_second: Annotated[float, Field(gt=0)] | None = Field(None, description="Pace; None is at once.")


# A request that makes use of any other feature is refused with UnsupportedFeature before it gets here. Leave out what
# your engine would ignore: two engines are only comparable when they do the same work.
CAPABILITIES = Capabilities(features=frozenset({Feature.TEXT_PROMPT, Feature.CHAT, Feature.IGNORE_EOS}))


@hookimpl
def enginebay_backend() -> BackendSpec:
    """The one hook. It is called when this kind is asked for, and costs nothing but an import."""
    return BackendSpec(
        kind="echo",  # the entry point's name
        options_model=EchoOptions,
        capabilities=lambda version, options: CAPABILITIES,
        compile=_compile,
        create=EchoBackend,
        modes=("in_process",),
        evidence="an example: there is no model behind it",
    )


def _compile(settings: Mapping[str, object], version: str | None) -> LaunchPlan:
    """Say of every portable setting what it becomes; `enginebay plan` prints this. Nothing is dropped silently."""
    why = "there is no model behind an echo"
    return LaunchPlan(
        outcomes=tuple(SettingOutcome(name, value, "unsupported", why=why) for name, value in settings.items())
    )


class EchoBackend:
    """Written to the protocol `enginebay.Backend`; there is no class to inherit from."""

    def __init__(self, context: BackendContext) -> None:
        # Everything comes in through the context: no globals, no environment, and a clock that tests can replace.
        self._clock = context.clock
        self._options: EchoOptions = context.options
        self._is_started = False
        self.info = BackendInfo(kind="echo", name=context.name, model=context.model, capabilities=CAPABILITIES)

    async def start(self) -> None:
        """Return when the engine is ready; raise StartFailed with its last log lines when it can't be."""
        self._is_started = True

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """A plain function: what can be refused is refused here, at the call. No work begins before the first chunk."""
        if not self._is_started:
            raise NotStarted("start the echo first", backend=self.info.name)
        return self._chunks(request)

    async def _chunks(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        words = _text(request).split()
        limit = request.sampling.max_tokens
        num_tokens = limit if request.sampling.ignore_eos and words else min(len(words), limit)
        begun_at = self._clock.now()
        try:
            for number in range(num_tokens):
                text = await self._next_word(words, number, begun_at=begun_at)
                yield GenerationChunk(text=text, num_tokens=1, received_at=self._clock.now())
            # Every stream ends with exactly one last chunk: it has finish_reason and usage, and may have text too.
            yield GenerationChunk(
                num_tokens=0,
                received_at=self._clock.now(),  # when the bytes arrived, not when you have parsed them
                usage=Usage(num_prompt_tokens=len(words), num_output_tokens=num_tokens),
                finish_reason=FinishReason.LENGTH if num_tokens == limit else FinishReason.STOP,
            )
        finally:
            # Tell your engine here that nobody listens any more: abort the transport, or send a message without
            # waiting for the answer. Never `await` here: inside a cancelled scope it would be cut off half-way.
            pass

    async def _next_word(self, words: list[str], number: int, *, begun_at: float) -> str:
        if self._options.words_per_second is not None:
            await self._clock.sleep_until(begun_at + number / self._options.words_per_second)
        word = words[number % len(words)]  # it never ends by itself where it is told to ignore its end
        return word if number == 0 else f" {word}"

    async def health(self) -> Health:
        """Answer from what is known: never through the data path, which may be saturated."""
        return Health(HealthState.READY if self._is_started else HealthState.LOADING)

    async def stats(self) -> EngineStats:
        """None for every quantity that the engine does not tell, which is all of them here."""
        return EngineStats()

    async def aclose(self) -> None:
        """Called once. Leave no process, port or file behind."""
        self._is_started = False


def _text(request: GenerationRequest) -> str:
    match request.prompt:
        case Text(text):
            return text
        case Chat(messages):
            content = messages[-1].content or ""
            if isinstance(content, str):
                return content
            return " ".join(part.text for part in content if isinstance(part, TextPart))
        case _:
            raise AssertionError("token ids were refused: TOKEN_PROMPT is not among the capabilities")
