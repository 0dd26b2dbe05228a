"""`enginebay generate`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated
from uuid import uuid4

from cyclopts import Parameter

from enginebay.clock import Clock, MonotonicClock
from enginebay.config.loader import load_config
from enginebay.configured import configured_backend
from enginebay.guard import GuardedBackend
from enginebay.types import Chat, GenerationRequest, Message, SamplingParams, Text, Usage


def generate(
    config: Annotated[Path, Parameter(help="Config file.")],
    text: Annotated[str, Parameter(help="The prompt; - reads it from standard input.", allow_leading_hyphen=True)],
    /,
    *,
    backend: Annotated[str | None, Parameter(help="Name of an entry, or a kind; else the config's own.")] = None,
    max_tokens: Annotated[int, Parameter(help="Most output tokens.")] = 200,
    temperature: Annotated[float, Parameter(help="0 is greedy.")] = 0.8,
    top_p: Annotated[float, Parameter(help="Nucleus of the distribution.")] = 0.95,
    seed: Annotated[int | None, Parameter(help="The same seed gives the same text.")] = None,
    chat: Annotated[bool, Parameter(help="Put the prompt into the model's chat template, or take it as it is.")] = True,
) -> None:
    """Generate one answer: the text streams to standard output, counts and times go to standard error."""
    prompt = sys.stdin.read() if text == "-" else text
    request = GenerationRequest(
        request_id=f"generate-{uuid4().hex}",
        prompt=Chat((Message("user", prompt),)) if chat else Text(prompt),
        sampling=SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed),
    )
    clock = MonotonicClock()
    asyncio.run(_generate(configured_backend(load_config(config), backend, clock=clock), request, clock=clock))


async def _generate(backend: GuardedBackend, request: GenerationRequest, *, clock: Clock) -> None:
    async with backend:
        sent_at = clock.now()
        first_at: float | None = None
        usage: Usage | None = None
        last_at = sent_at
        async for chunk in backend.generate(request):
            sys.stdout.write(chunk.text)
            sys.stdout.flush()
            if first_at is None and (chunk.num_tokens or chunk.text):
                first_at = chunk.received_at
            last_at = chunk.received_at
            usage = chunk.usage or usage
        sys.stdout.write("\n")
        if usage is not None:
            print(_summary(usage, ttft_s=(first_at or last_at) - sent_at, e2e_s=last_at - sent_at), file=sys.stderr)


def _summary(usage: Usage, *, ttft_s: float, e2e_s: float) -> str:
    """Tokens per second are those after the first token, over the time they took."""
    counts = f"{usage.num_prompt_tokens} prompt tokens, {usage.num_output_tokens} output tokens"
    times = f"first token after {ttft_s:.3f} s, all after {e2e_s:.3f} s"
    if usage.num_output_tokens < 2 or e2e_s <= ttft_s:
        return f"{counts}; {times}"
    return f"{counts}; {times}; {(usage.num_output_tokens - 1) / (e2e_s - ttft_s):.1f} tokens/s"
