"""Answers of /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from enginebay.errors import UnsupportedFeature
from enginebay.types import GenerationChunk, PromptEcho, Usage
from enginebay.wire.openai_logprobs import CompletionLogprobs, PromptLogprob, completion_logprobs, prompt_logprobs
from enginebay.wire.openai_responses import ResponseOptions, StreamEnvelope, encode
from enginebay.wire.openai_usage import UsageBody, usage_body


class CompletionChoice(msgspec.Struct, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: Sequence[int] | UnsetType | None = UNSET
    prompt_token_ids: Sequence[int] | UnsetType | None = UNSET
    prompt_logprobs: Sequence[dict[int, PromptLogprob] | None] | UnsetType | None = UNSET


class CompletionResponse(msgspec.Struct, kw_only=True):
    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageBody


class CompletionEncoder:
    """echoed: the text of each choice's prompt, None where only the engine knows it; empty without `echo`."""

    def __init__(self, options: ResponseOptions, *, echoed: Sequence[str | None] = (), backend: str = "") -> None:
        self._options, self._echoed, self._backend = options, tuple(echoed), backend
        self._is_plain = options.is_plain and not self._echoed
        self._offsets = [0] * options.num_choices  # characters sent of each choice
        self._begun = [False] * options.num_choices

    def opening(self) -> bytes:
        self._envelope = StreamEnvelope(self._options, "text_completion")
        head = self._envelope.head
        self._heads = [head + b'{"index":%d,"text":' % index for index in range(self._options.num_choices)]
        self._plain_choice_tail = b',"logprobs":null,"finish_reason":null,"stop_reason":null}'
        self._plain_tail = self._plain_choice_tail + self._envelope.tail()
        return b""

    def piece(self, index: int, chunk: GenerationChunk, usage: Usage | None) -> bytes:
        if self._is_plain and chunk.finish_reason is None:
            text = self._heads[index] + encode(chunk.text)
            if usage is None:
                return text + self._plain_tail
            return text + self._plain_choice_tail + self._envelope.tail(usage)
        return self._envelope.head + encode(self._choice(index, chunk)) + self._envelope.tail(usage)

    def usage_piece(self, usage: Usage) -> bytes:
        return self._envelope.usage_piece(usage)

    def final(self, answers: Sequence[GenerationChunk], usage: Usage) -> bytes:
        response = CompletionResponse(
            id=self._options.response_id,
            created=self._options.created,
            model=self._options.model,
            choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
            usage=usage_body(usage),
        )
        return encode(response)

    def _choice(self, index: int, chunk: GenerationChunk) -> CompletionChoice:
        options = self._options
        is_first = not self._begun[index]
        self._begun[index] = True
        echo_text = self._echo_text(index, chunk.prompt) if is_first and self._echoed else ""
        choice = CompletionChoice(
            index=index,
            text=echo_text + chunk.text,
            logprobs=self._logprobs(index, chunk, echo_text) if options.wants_logprobs else None,
            finish_reason=chunk.finish_reason.value if chunk.finish_reason is not None else None,
            stop_reason=chunk.stop_reason,
        )
        self._offsets[index] += len(choice.text)
        if options.wants_token_ids:
            choice.token_ids = chunk.token_ids
            if is_first:
                choice.prompt_token_ids = chunk.prompt.token_ids if chunk.prompt is not None else None
        if options.wants_prompt_logprobs and is_first:
            choice.prompt_logprobs = prompt_logprobs(chunk.prompt)
        return choice

    def _echo_text(self, index: int, prompt: PromptEcho | None) -> str:
        text = self._echoed[index]
        if text is not None:
            return text
        if prompt is None or prompt.tokens is None:
            raise UnsupportedFeature(
                field="echo", backend=self._backend, detail="it does not tell the text of token ids"
            )
        return "".join(prompt.tokens)

    def _logprobs(self, index: int, chunk: GenerationChunk, echo_text: str) -> CompletionLogprobs:
        entries, tokens = list(chunk.logprobs or ()), [entry.token for entry in chunk.logprobs or ()]
        if echo_text and chunk.prompt is not None and chunk.prompt.logprobs is not None:
            prompt = chunk.prompt.logprobs
            entries = [*prompt, *entries]
            tokens = [*_prompt_tokens(chunk.prompt), *tokens]
        as_ids = self._options.tokens_as_ids
        return completion_logprobs(entries, tokens, offset=self._offsets[index], as_ids=as_ids)


def _prompt_tokens(prompt: PromptEcho) -> Sequence[str]:
    if prompt.tokens is not None:
        return prompt.tokens
    entries = prompt.logprobs or ()
    return ["" if entry is None else entry.token for entry in entries]
