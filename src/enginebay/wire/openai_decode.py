"""Answers of servers of the OpenAI API, whole or streamed, made chunks of the protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
from msgspec import UNSET

from enginebay.errors import BackendUnavailable, EngineBayError, UpstreamError
from enginebay.types import FinishReason, GenerationChunk, PromptEcho, ToolCallDelta, Usage
from enginebay.wire.openai_answers import (
    NO_CONTENT,
    ChatAnswer,
    ChatChoice,
    ChatContent,
    CompletionAnswer,
    CompletionChoice,
    ToolCallAnswer,
    UsageAnswer,
)
from enginebay.wire.openai_decode_logprobs import prompt_echo, token_logprobs
from enginebay.wire.openai_encode import Form
from enginebay.wire.openai_errors import error_from_response, read_error
from enginebay.wire.sse import DONE, SseEvent

FINISH_REASONS: Mapping[str, FinishReason] = {
    **{reason.value: reason for reason in FinishReason},
    "eos_token": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "function_call": FinishReason.TOOL_CALLS,
}
_SNIPPET_BYTES = 200
_completion_decoder = msgspec.json.Decoder(CompletionAnswer)
_chat_decoder = msgspec.json.Decoder(ChatAnswer)


class AnswerDecoder:
    """For the answer to one request with one choice. It keeps the rule of one last chunk, with finish and usage.

    Servers send the finish reason and the usage in different events. When both are in one read they become one last
    chunk; when the usage is late, what came with the finish reason is given out at once and the last chunk follows.
    """

    def __init__(self, form: Form, *, backend: str, num_alternatives: int | None = None) -> None:
        """num_alternatives: the log-probabilities that were asked for at each position."""
        self._form: Form = form
        self._backend = backend
        self._num_alternatives = num_alternatives
        self._num_output_tokens = 0
        self._are_all_counted = True
        self._prompt: PromptEcho | None = None
        self._num_prompt_tokens: int | None = None
        self._usage: Usage | None = None
        self._last: GenerationChunk | None = None
        self.is_finished = False
        """The last chunk was given out; whatever follows is ignored."""

    def feed(self, events: Sequence[SseEvent], received_at: float) -> Iterator[GenerationChunk]:
        """The chunks that these events complete, then the error that the server sent, or UpstreamError."""
        for event in events:
            if event.data == DONE:
                yield self._finish(received_at)
            elif (chunk := self._add(self._decode(event.data), received_at)) is not None:
                yield chunk
            if self.is_finished:
                return
        if self._last is not None:
            yield from self._give_out_last(received_at)

    def end(self, received_at: float) -> list[GenerationChunk]:
        """To be called when the bytes end. Raises BackendUnavailable when they were cut off."""
        if self.is_finished:
            return []
        if self._last is None:
            raise BackendUnavailable(
                "the server ended the stream before the answer was finished", backend=self._backend
            )
        return [self._finish(received_at)]

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        """The one chunk of an answer that was not streamed."""
        self._add(self._decode(body), received_at)
        if self._last is None:
            raise UpstreamError(f"the answer has no finish_reason: {_snippet(body)}", backend=self._backend)
        return self._finish(received_at, is_whole=True)

    # ---------------------------------------------------------------- one event

    def _decode(self, data: bytes) -> CompletionAnswer | ChatAnswer:
        decoder = _chat_decoder if self._form == "chat" else _completion_decoder
        try:
            answer = decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if read_error(data) is not None and b'"error"' in data:
                raise self._error_in_stream(data) from error
            problem = f"the server sent an event that is not understood ({error}): {_snippet(data)}"
            raise UpstreamError(problem, backend=self._backend) from error
        if answer.error is not UNSET and bytes(answer.error) != b"null":
            raise self._error_in_stream(data)
        return answer

    def _error_in_stream(self, data: bytes) -> EngineBayError:
        detail = read_error(data)
        code = str(detail.code) if detail is not None else ""
        status = int(code) if code.isdigit() and 400 <= int(code) < 600 else 500
        return error_from_response(status, data, backend=self._backend)

    def _add(self, answer: CompletionAnswer | ChatAnswer, received_at: float) -> GenerationChunk | None:
        usage = self._usage_of(answer.usage)
        if not answer.choices:
            return None
        if len(answer.choices) > 1 or answer.choices[0].index != 0:
            raise UpstreamError("the server sent several choices, one was asked for", backend=self._backend)
        choice = answer.choices[0]
        if usage is None and (plain := self._plain_chunk(choice, received_at)) is not None:
            return plain
        self._learn_prompt(answer, choice)
        chunk = self._chunk(choice, usage, received_at)
        if chunk.finish_reason is not None:
            self._last = chunk
            self._usage = usage  # an earlier, continuous one does not count this chunk
            return None
        return chunk if _has_content(chunk) else None  # else the role alone, or a keep-alive: no token

    def _plain_chunk(self, choice: CompletionChoice | ChatChoice, received_at: float) -> GenerationChunk | None:
        """The quick path: text and token ids and nothing else, as nearly all events of a stream are. Else None."""
        token_ids = choice.token_ids
        if (
            type(choice) is not CompletionChoice
            or not token_ids
            or choice.finish_reason
            or choice.logprobs is not None
            or choice.stop_reason is not None
            or choice.prompt_token_ids is not None
            or self._prompt is not None
        ):
            return None
        num_tokens = len(token_ids)
        self._num_output_tokens += num_tokens
        return GenerationChunk(
            text=choice.text or "", token_ids=token_ids, num_tokens=num_tokens, received_at=received_at
        )

    def _chunk(self, choice: CompletionChoice | ChatChoice, usage: Usage | None, received_at: float) -> GenerationChunk:
        content = _chat_content(choice) if isinstance(choice, ChatChoice) else NO_CONTENT
        text = (content.content if isinstance(choice, ChatChoice) else choice.text) or ""
        reasoning = content.reasoning or content.reasoning_content
        num_tokens = self._count(choice.token_ids, usage, has_content=bool(text or reasoning or content.tool_calls))
        logprobs = token_logprobs(choice.logprobs, token_ids=choice.token_ids, num_alternatives=self._num_alternatives)
        chunk = GenerationChunk(
            text=text,
            token_ids=choice.token_ids,
            num_tokens=num_tokens,
            logprobs=logprobs,
            reasoning_text=reasoning,
            tool_call_deltas=_tool_calls(content.tool_calls) if content.tool_calls else (),
            received_at=received_at,
            usage=usage,
            finish_reason=self._finish_reason(choice.finish_reason),
            stop_reason=choice.stop_reason,
            prompt=self._prompt,
        )
        if num_tokens or text or chunk.finish_reason is not None:
            self._prompt = None
        return chunk

    def _count(self, token_ids: tuple[int, ...] | None, usage: Usage | None, *, has_content: bool) -> int | None:
        if token_ids is not None:
            num_tokens = len(token_ids)
        elif usage is not None and self._are_all_counted:
            self._demand_all_counted(usage)
            num_tokens = usage.num_output_tokens - self._num_output_tokens
        else:
            self._are_all_counted = self._are_all_counted and not has_content
            return None
        self._num_output_tokens += num_tokens
        return num_tokens

    def _learn_prompt(self, answer: CompletionAnswer | ChatAnswer, choice: CompletionChoice | ChatChoice) -> None:
        source = answer if isinstance(answer, ChatAnswer) else choice
        if isinstance(source, ChatChoice) or source.prompt_token_ids is None:
            return
        self._prompt = prompt_echo(source.prompt_token_ids, source.prompt_logprobs)
        self._num_prompt_tokens = len(source.prompt_token_ids)

    def _usage_of(self, answer: UsageAnswer | None) -> Usage | None:
        if answer is None:
            return None
        details = answer.prompt_tokens_details
        cached = details.cached_tokens if details is not None else None
        if min(answer.prompt_tokens, answer.completion_tokens, cached or 0) < 0:
            raise UpstreamError(f"the server tells a negative number of tokens: {answer}", backend=self._backend)
        self._usage = Usage(answer.prompt_tokens, answer.completion_tokens, cached)
        return self._usage

    def _demand_all_counted(self, usage: Usage) -> None:
        """A usage may count more than was told, tokens that were held back at a stop; never fewer."""
        if usage.num_output_tokens < self._num_output_tokens:
            raise UpstreamError(
                f"the server tells {usage.num_output_tokens} output tokens after it has sent {self._num_output_tokens}",
                backend=self._backend,
            )

    def _finish_reason(self, reason: str | None) -> FinishReason | None:
        if reason is None or reason == "":
            return None
        if reason not in FINISH_REASONS:
            problem = f"the server finished with {reason!r}, which is none of {', '.join(FINISH_REASONS)}"
            raise UpstreamError(problem, backend=self._backend)
        return FINISH_REASONS[reason]

    # ---------------------------------------------------------------- the last chunk

    def _give_out_last(self, received_at: float) -> Iterator[GenerationChunk]:
        last = self._last
        assert last is not None
        if self._usage is not None:
            yield self._finish(received_at)
        elif _has_content(last):
            self._last = GenerationChunk(
                token_ids=None if last.token_ids is None else (),
                num_tokens=None if last.num_tokens is None else 0,
                received_at=last.received_at,
                finish_reason=last.finish_reason,
                stop_reason=last.stop_reason,
            )
            yield replace(last, finish_reason=None, stop_reason=None)

    def _finish(self, received_at: float, *, is_whole: bool = False) -> GenerationChunk:
        """is_whole: the usage counts the tokens of this one chunk."""
        if self._last is None:
            raise UpstreamError("the server ended the stream without a finish_reason", backend=self._backend)
        self.is_finished = True
        usage = self._usage or self._counted_usage()
        if usage is None:
            problem = "the server ended the stream without usage, which was asked for (stream_options.include_usage)"
            raise UpstreamError(problem, backend=self._backend)
        self._demand_all_counted(usage)
        num_tokens = self._last.num_tokens
        if is_whole and num_tokens is None:
            num_tokens = usage.num_output_tokens
        return replace(self._last, usage=usage, received_at=received_at, num_tokens=num_tokens)

    def _counted_usage(self) -> Usage | None:
        """Where no usage came but every token did, by its id."""
        if self._num_prompt_tokens is None or not self._are_all_counted:
            return None
        return Usage(self._num_prompt_tokens, self._num_output_tokens)


def _has_content(chunk: GenerationChunk) -> bool:
    return bool(chunk.text or chunk.num_tokens or chunk.tool_call_deltas or chunk.reasoning_text)


def _chat_content(choice: ChatChoice) -> ChatContent:
    return choice.delta or choice.message or NO_CONTENT


def _tool_calls(calls: Sequence[ToolCallAnswer]) -> tuple[ToolCallDelta, ...]:
    return tuple(
        ToolCallDelta(
            index=position if call.index is None else call.index,
            id=call.id,
            name=call.function.name if call.function is not None else None,
            arguments=(call.function.arguments if call.function is not None else None) or "",
        )
        for position, call in enumerate(calls)
    )


def _snippet(data: bytes) -> str:
    return data[:_SNIPPET_BYTES].decode("utf-8", "backslashreplace") + ("..." if len(data) > _SNIPPET_BYTES else "")
