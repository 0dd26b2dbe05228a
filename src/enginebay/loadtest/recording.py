"""What came of one request, made a record when its stream has ended. Nothing is parsed or tokenised here."""

from __future__ import annotations

from collections.abc import Sequence

from enginebay.loadtest.plan import PlannedRequest
from enginebay.loadtest.records import Arrival, Record
from enginebay.types import GenerationChunk


def make_record(
    planned: PlannedRequest,
    chunks: Sequence[GenerationChunk],
    *,
    zero: float,
    scheduled_at: float,
    sent_at: float,
    ended_at: float,
    error: tuple[str, str] | None,
) -> Record:
    """All instants are given on the clock and stored from `zero` on. error: its class and its message."""
    arrivals, num_uncounted_chunks = _arrivals(chunks, zero)
    usage = next((chunk.usage for chunk in reversed(chunks) if chunk.usage is not None), None)
    last = chunks[-1] if chunks else None
    return Record(
        index=planned.index,
        scheduled_at=scheduled_at - zero,
        sent_at=sent_at - zero,
        ended_at=ended_at - zero,
        arrivals=arrivals,
        num_chunks=len(chunks),
        num_uncounted_chunks=num_uncounted_chunks,
        num_planned_prompt_tokens=planned.num_prompt_tokens,
        max_tokens=planned.sampling.max_tokens,
        num_prompt_tokens=usage.num_prompt_tokens if usage else None,
        num_output_tokens=usage.num_output_tokens if usage else None,
        num_cached_tokens=usage.num_cached_tokens if usage else None,
        num_discarded_tokens=usage.num_discarded_tokens if usage else None,
        text="".join([chunk.text for chunk in chunks]),
        token_ids=_token_ids(chunks),
        finish_reason=last.finish_reason.value if last and last.finish_reason else None,
        stop_reason=last.stop_reason if last else None,
        error_class=error[0] if error else None,
        error_message=error[1] if error else None,
    )


def _arrivals(chunks: Sequence[GenerationChunk], zero: float) -> tuple[list[Arrival], int]:
    """Chunks with tokens, and the number of those whose tokens nobody counted."""
    arrivals: list[Arrival] = []
    num_known = num_uncounted_chunks = 0
    for chunk in chunks:
        num_tokens = chunk.num_tokens
        if num_tokens is None and chunk.token_ids is not None:
            num_tokens = len(chunk.token_ids)
        if num_tokens is None and chunk.usage is not None and num_uncounted_chunks == 0:
            # Everything before was counted, so what the cumulative usage adds arrived now.
            num_tokens = max(0, chunk.usage.num_output_tokens - num_known)
        if num_tokens is None:
            num_tokens = 1 if _has_content(chunk) else 0
            num_uncounted_chunks += num_tokens
        if num_tokens > 0:
            arrivals.append(Arrival(chunk.received_at - zero, num_tokens))
            num_known += num_tokens
    return arrivals, num_uncounted_chunks


def _has_content(chunk: GenerationChunk) -> bool:
    """False for a role, a keep-alive, or a closing usage."""
    return bool(chunk.text or chunk.reasoning_text or chunk.tool_call_deltas)


def _token_ids(chunks: Sequence[GenerationChunk]) -> list[int] | None:
    """None where some of the text came without ids."""
    token_ids: list[int] = []
    for chunk in chunks:
        if chunk.token_ids is not None:
            token_ids += chunk.token_ids
        elif chunk.text:
            return None
    return token_ids or None
