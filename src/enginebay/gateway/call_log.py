"""One line of the log for each call. Texts stand in it only where the config asks for them."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from enginebay.gateway.call import Call, Outcome
from enginebay.gateway.hooks import GatewayHook
from enginebay.types import Chat, GenerationChunk, Prompt, Text, TextPart

MAX_LOGGED_CHARS = 16_384
"""Of a prompt, and of a completion; what is longer is cut and says so."""


class CallLog(GatewayHook):
    """Names and numbers alone."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log

    def at_end(self, call: Call, outcome: Outcome) -> None:
        self._log.info("call", **call_fields(call, outcome))


class TextLog(GatewayHook):
    """The same with the prompt and, where there is one choice, the completion."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._completions: dict[int, _Completion] = {}  # by id() of open calls: each of them comes to its end once

    def on_chunk(self, call: Call, chunk: GenerationChunk) -> None:
        if len(call.requests) > 1:
            return  # chunks do not say whose they are
        completion = self._completions.get(id(call))
        if completion is None:
            completion = self._completions[id(call)] = _Completion()
        completion.add(chunk)

    def at_end(self, call: Call, outcome: Outcome) -> None:
        completion = self._completions.pop(id(call), None)
        self._log.info(
            "call",
            **call_fields(call, outcome),
            prompts=[_shortened(prompt_text(request.prompt)) for request in call.requests],
            completion=None if completion is None else completion.text(),
        )


class _Completion:
    __slots__ = ("_num_chars", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._num_chars = 0

    def add(self, chunk: GenerationChunk) -> None:
        if self._num_chars <= MAX_LOGGED_CHARS:
            piece = chunk.text + "".join(delta.arguments for delta in chunk.tool_call_deltas)
            self._pieces.append(piece)
            self._num_chars += len(piece)

    def text(self) -> str:
        return _shortened("".join(self._pieces))


def call_fields(call: Call, outcome: Outcome) -> dict[str, object]:
    first_token_at = call.first_token_at
    return {
        "request_id": call.request_id,
        "key_id": call.client.key_id,
        "model": call.model,
        "version": call.version,
        "replicas": [attempt.replica for attempt in call.attempts],
        "resumed": [attempt.resumed for attempt in call.attempts if attempt.resumed is not None],
        "outcome": outcome.kind,
        "code": outcome.error_code,
        "num_prompt_tokens": outcome.num_prompt_tokens,
        "num_output_tokens": outcome.num_output_tokens,
        "ttft_s": None if first_token_at is None else round(first_token_at - call.arrived_at, 6),
        "duration_s": round(outcome.ended_at - call.arrived_at, 6),
    }


def prompt_text(prompt: Prompt) -> str:
    match prompt:
        case Text():
            return prompt.text
        case Chat():
            return "\n".join(f"{message.role}: {_content_text(message.content)}" for message in prompt.messages)
        case _:
            return " ".join(map(str, prompt.token_ids))


def _content_text(content: object) -> str:
    """An image is named, not shown."""
    if not isinstance(content, tuple):
        return str(content or "")
    return "".join(part.text if isinstance(part, TextPart) else "[image]" for part in content)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_LOGGED_CHARS else f"{text[:MAX_LOGGED_CHARS]} [cut]"
