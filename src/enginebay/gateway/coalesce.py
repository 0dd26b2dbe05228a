"""Several chunks as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from enginebay.types import GenerationChunk, ToolCallDelta


def merged(chunks: Sequence[GenerationChunk]) -> GenerationChunk:
    """chunks: successive and of one stream, at least one. What one of them does not tell, the whole does not."""
    if len(chunks) == 1:
        return chunks[0]
    last = chunks[-1]
    return GenerationChunk(
        text="".join(chunk.text for chunk in chunks),
        token_ids=_joined_if_all([chunk.token_ids for chunk in chunks]),
        num_tokens=_sum_if_all([chunk.num_tokens for chunk in chunks]),
        logprobs=tuple(chain.from_iterable(chunk.logprobs or () for chunk in chunks)) or None,
        reasoning_text="".join(chunk.reasoning_text or "" for chunk in chunks) or None,
        tool_call_deltas=_merged_calls(chain.from_iterable(chunk.tool_call_deltas for chunk in chunks)),
        received_at=last.received_at,
        usage=next((chunk.usage for chunk in reversed(chunks) if chunk.usage is not None), None),
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        prompt=next((chunk.prompt for chunk in chunks if chunk.prompt is not None), None),
    )


class Coalescer:
    """Holds the chunks of one stream until `num_tokens` tokens are together; never the first token, nor the last."""

    __slots__ = ("_has_begun", "_held", "_num_held_tokens", "_num_tokens")

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._held: list[GenerationChunk] = []
        self._num_held_tokens = 0
        self._has_begun = False

    def add(self, chunk: GenerationChunk) -> GenerationChunk | None:
        """What is to be sent now. A chunk that does not tell its tokens counts as one."""
        self._held.append(chunk)
        self._num_held_tokens += 1 if chunk.num_tokens is None else chunk.num_tokens
        is_first_token = not self._has_begun and self._num_held_tokens > 0
        if not (is_first_token or chunk.finish_reason is not None or self._num_held_tokens >= self._num_tokens):
            return None
        self._has_begun = True
        ready, self._held, self._num_held_tokens = merged(self._held), [], 0
        return ready


def _joined_if_all(parts: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    known = [part for part in parts if part is not None]
    return tuple(chain.from_iterable(known)) if len(known) == len(parts) else None


def _sum_if_all(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _merged_calls(deltas: chain[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
    calls: dict[int, ToolCallDelta] = {}
    for delta in deltas:
        call = calls.get(delta.index)
        calls[delta.index] = delta if call is None else replace(call, arguments=call.arguments + delta.arguments)
    return tuple(calls.values())
