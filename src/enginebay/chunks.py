"""Several chunks of one stream as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from enginebay.types import GenerationChunk


def joined(chunks: Sequence[GenerationChunk]) -> GenerationChunk:
    """All chunks of a finished stream, in order, the last one included. What some of them don't tell is None."""
    if len(chunks) == 1:
        return chunks[0]
    knows_ids = all(chunk.token_ids is not None for chunk in chunks)
    knows_numbers = all(chunk.num_tokens is not None for chunk in chunks)
    knows_logprobs = any(chunk.logprobs is not None for chunk in chunks)
    reasoning = [chunk.reasoning_text for chunk in chunks if chunk.reasoning_text is not None]
    return replace(
        chunks[-1],
        text="".join(chunk.text for chunk in chunks),
        token_ids=tuple(token_id for chunk in chunks for token_id in chunk.token_ids or ()) if knows_ids else None,
        num_tokens=sum(chunk.num_tokens or 0 for chunk in chunks) if knows_numbers else None,
        logprobs=tuple(entry for chunk in chunks for entry in chunk.logprobs or ()) if knows_logprobs else None,
        reasoning_text="".join(reasoning) if reasoning else None,
        tool_call_deltas=tuple(delta for chunk in chunks for delta in chunk.tool_call_deltas),
        prompt=next((chunk.prompt for chunk in chunks if chunk.prompt is not None), None),
    )
