"""Answers of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from enginebay.types import GenerationChunk, ToolCallDelta, Usage
from enginebay.wire.openai_logprobs import ChatLogprobs, PromptLogprob, chat_logprobs, prompt_logprobs
from enginebay.wire.openai_responses import ResponseOptions, StreamEnvelope, encode
from enginebay.wire.openai_usage import UsageBody, usage_body


class FunctionCall(msgspec.Struct, kw_only=True):
    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCall(msgspec.Struct, kw_only=True):
    index: int | UnsetType = UNSET
    """In deltas only."""
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionCall


class ChatDelta(msgspec.Struct, kw_only=True):
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatMessage(msgspec.Struct, kw_only=True):
    role: str = "assistant"
    content: str | None
    refusal: None = None
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, kw_only=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: Sequence[int] | UnsetType | None = UNSET


class ChatChoice(msgspec.Struct, kw_only=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: Sequence[int] | UnsetType | None = UNSET


class ChatResponse(msgspec.Struct, kw_only=True):
    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    prompt_token_ids: Sequence[int] | UnsetType | None = UNSET
    prompt_logprobs: Sequence[dict[int, PromptLogprob] | None] | UnsetType | None = UNSET


class ChatEncoder:
    def __init__(self, options: ResponseOptions) -> None:
        self._options = options
        self._is_first = True

    def opening(self) -> bytes:
        """For each choice a chunk with the role alone: it is no token."""
        self._envelope = StreamEnvelope(self._options, "chat.completion.chunk")
        head, tail, choices = self._envelope.head, self._envelope.tail(), range(self._options.num_choices)
        self._heads = [head + b'{"index":%d,"delta":{"content":' % index for index in choices]
        self._plain_choice_tail = b'},"logprobs":null,"finish_reason":null,"stop_reason":null}'
        self._plain_tail = self._plain_choice_tail + tail
        role = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        return b"".join(head + role % index + tail for index in choices)

    def piece(self, index: int, chunk: GenerationChunk, usage: Usage | None) -> bytes:
        if self._is_bare_text(chunk):
            text = self._heads[index] + encode(chunk.text)
            if usage is None:
                return text + self._plain_tail
            return text + self._plain_choice_tail + self._envelope.tail(usage)
        choice = self._chunk_choice(index, chunk)
        return self._envelope.head + encode(choice) + self._envelope.tail(usage, self._prompt_member(chunk))

    def _is_bare_text(self, chunk: GenerationChunk) -> bool:
        return (
            self._options.is_plain
            and chunk.finish_reason is None
            and not chunk.tool_call_deltas
            and chunk.reasoning_text is None
        )

    def usage_piece(self, usage: Usage) -> bytes:
        return self._envelope.usage_piece(usage)

    def final(self, answers: Sequence[GenerationChunk], usage: Usage) -> bytes:
        response = ChatResponse(
            id=self._options.response_id,
            created=self._options.created,
            model=self._options.model,
            choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
            usage=usage_body(usage),
        )
        prompt = answers[0].prompt
        if self._options.wants_token_ids:
            response.prompt_token_ids = prompt.token_ids if prompt is not None else None
        if self._options.wants_prompt_logprobs:
            response.prompt_logprobs = prompt_logprobs(prompt)
        return encode(response)

    def _chunk_choice(self, index: int, chunk: GenerationChunk) -> ChatChunkChoice:
        delta = ChatDelta()
        if chunk.text or not (chunk.reasoning_text or chunk.tool_call_deltas or chunk.finish_reason):
            delta.content = chunk.text
        if chunk.reasoning_text:
            delta.reasoning = chunk.reasoning_text
        if chunk.tool_call_deltas:
            delta.tool_calls = [_delta_call(call) for call in chunk.tool_call_deltas]
        return ChatChunkChoice(
            index=index,
            delta=delta,
            logprobs=self._logprobs(chunk),
            finish_reason=chunk.finish_reason.value if chunk.finish_reason is not None else None,
            stop_reason=chunk.stop_reason,
            token_ids=chunk.token_ids if self._options.wants_token_ids else UNSET,
        )

    def _prompt_member(self, chunk: GenerationChunk) -> bytes:
        """The prompt's token ids stand once, at the top of the first chunk."""
        if not (self._is_first and self._options.wants_token_ids):
            return b""
        self._is_first = False
        return b',"prompt_token_ids":' + encode(chunk.prompt.token_ids if chunk.prompt is not None else None)

    def _choice(self, index: int, answer: GenerationChunk) -> ChatChoice:
        message = ChatMessage(content=answer.text if answer.text or not answer.tool_call_deltas else None)
        if answer.reasoning_text:
            message.reasoning = answer.reasoning_text
        if answer.tool_call_deltas:
            message.tool_calls = [_whole_call(call) for call in answer.tool_call_deltas]
        return ChatChoice(
            index=index,
            message=message,
            logprobs=self._logprobs(answer),
            finish_reason=answer.finish_reason.value if answer.finish_reason is not None else None,
            stop_reason=answer.stop_reason,
            token_ids=answer.token_ids if self._options.wants_token_ids else UNSET,
        )

    def _logprobs(self, chunk: GenerationChunk) -> ChatLogprobs | None:
        if not self._options.wants_logprobs:
            return None
        return chat_logprobs(chunk.logprobs or (), as_ids=self._options.tokens_as_ids)


def _delta_call(call: ToolCallDelta) -> ToolCall:
    function = FunctionCall(arguments=call.arguments)
    if call.name is not None:
        function.name = call.name
    wire = ToolCall(index=call.index, function=function)
    if call.id is not None:
        wire.id, wire.type = call.id, "function"
    return wire


def _whole_call(call: ToolCallDelta) -> ToolCall:
    wire = _delta_call(call)
    wire.index = UNSET
    wire.type = "function"
    return wire
