"""Probes of the shape of a stream: its end, its usage, its text, its two ways of delivery."""

from __future__ import annotations

from enginebay.backend import Backend
from enginebay.probes.asking import again, ask, greedy, plain_prompt
from enginebay.probes.probe import Probe, ProbeSkipped, expect
from enginebay.types import GenerationChunk

_EMOJI_TEXT = "🙂 🎉 🙂 🎉 日本語 🙂 🎉 🙂 🎉 日本語 🙂 🎉 🙂 🎉 日本語 🙂 🎉 🙂 🎉"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


async def _ends_once(backend: Backend) -> str:
    """To the very end, past the last chunk: what the other probes leave alone."""
    chunks = [chunk async for chunk in backend.generate(greedy(backend))]
    ends = [number for number, chunk in enumerate(chunks) if chunk.finish_reason is not None]
    expect(len(ends) == 1, f"{len(ends)} of {len(chunks)} chunks have a finish_reason; exactly one must")
    expect(ends == [len(chunks) - 1], f"{len(chunks) - 1 - ends[0]} chunks came after the last one")
    expect(chunks[-1].usage is not None, "the last chunk has no usage")
    return f"{len(chunks)} chunks"


async def _usage_is_right(backend: Backend) -> str:
    answer = await ask(backend, greedy(backend, max_tokens=16))
    usage, told = answer.usage, answer.num_told_tokens
    expect(usage.num_prompt_tokens > 0, f"usage tells {usage.num_prompt_tokens} prompt tokens")
    if told is None:
        expect(0 < usage.num_output_tokens <= 16, f"usage tells {usage.num_output_tokens} of at most 16 tokens")
        raise ProbeSkipped(f"chunks do not tell their tokens; usage tells {usage.num_output_tokens} of at most 16")
    expect(usage.num_output_tokens == told, f"usage tells {usage.num_output_tokens} tokens, the chunks {told}")
    return f"{told} tokens in {len(answer.chunks)} chunks"


async def _arrival_is_told(backend: Backend) -> None:
    answer = await ask(backend, greedy(backend))
    arrivals = [chunk.received_at for chunk in answer.chunks]
    expect(arrivals == sorted(arrivals), f"received_at goes backwards: {arrivals}")
    expect(arrivals[0] > 0, "received_at is not set")


async def _final_is_streamed(backend: Backend) -> None:
    request = greedy(backend)
    streamed, final = await ask(backend, request), await ask(backend, again(request, delivery="final"))
    expect(final.text == streamed.text, f"final gives {final.text!r}, the stream {streamed.text!r}")
    expect(
        final.usage.num_prompt_tokens == streamed.usage.num_prompt_tokens,
        f"final tells {final.usage.num_prompt_tokens} prompt tokens, the stream {streamed.usage.num_prompt_tokens}",
    )
    expect(
        final.finish_reason == streamed.finish_reason,
        f"final ends with {final.finish_reason}, the stream with {streamed.finish_reason}",
    )


async def _characters_are_whole(backend: Backend) -> str:
    request = greedy(backend, prompt=plain_prompt(backend, _EMOJI_TEXT), max_tokens=40)
    streamed, final = await ask(backend, request), await ask(backend, again(request, delivery="final"))
    broken = [chunk for chunk in streamed.chunks if _has_halves(chunk)]
    expect(not broken, f"a character arrives in halves: {broken[0].text if broken else ''!r}")
    expect(streamed.text.rstrip(_REPLACEMENT) == final.text.rstrip(_REPLACEMENT), _differing(streamed.text, final.text))
    if streamed.text.isascii():
        raise ProbeSkipped(f"the model answers in ASCII alone: {streamed.text!r}")
    return f"{sum(not character.isascii() for character in streamed.text)} characters beyond ASCII"


def _has_halves(chunk: GenerationChunk) -> bool:
    """An answer that is cut by its limit may end in one, and only there."""
    text = chunk.text if chunk.finish_reason is None else chunk.text.rstrip(_REPLACEMENT)
    return _REPLACEMENT in text


def _differing(streamed: str, final: str) -> str:
    return f"the streamed text is {streamed!r}, the same answer as a whole {final!r}"


STREAM_PROBES = (
    Probe(
        name="a stream ends with exactly one last chunk",
        description="One chunk has finish_reason and usage, and nothing comes after it.",
        run=_ends_once,
    ),
    Probe(
        name="usage equals the tokens that arrived",
        description="num_output_tokens of the last usage is what the chunks tell by number or by ids.",
        run=_usage_is_right,
    ),
    Probe(
        name="chunks tell when they arrived",
        description="received_at is set and never goes backwards.",
        run=_arrival_is_told,
    ),
    Probe(
        name="one final chunk says what the stream says",
        description="delivery=final gives the text, the end and the prompt tokens of delivery=stream.",
        run=_final_is_streamed,
    ),
    Probe(
        name="characters of several bytes arrive whole",
        description="No chunk holds half a character, and all chunks together are the whole answer.",
        run=_characters_are_whole,
    ),
)
