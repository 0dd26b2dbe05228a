"""The reference backend over a scripted engine: what its tests ask and read."""

import asyncio
from contextlib import asynccontextmanager

from fake_process import FakeProcess
from tiny_tokenizers import byte_level

from enginebay.backend import BackendContext
from enginebay.backends.reference.backend import ReferenceBackend
from enginebay.backends.reference.options import ReferenceOptions
from enginebay.clock import MonotonicClock
from enginebay.guard import GuardedBackend
from enginebay.types import (
    GenerationRequest,
    SamplingParams,
    Text,
)

EOS = byte_level().token_to_id("<|im_end|>")


def ids(text):
    return byte_level().encode(text).ids


def new_backend(model_dir, process, *, settings=None, options=None, seed=0, environment=None):
    context = BackendContext(
        name="reference",
        model=str(model_dir),
        options=ReferenceOptions.model_validate(options or {}),
        settings=settings or {},
        clock=MonotonicClock(),
        seed=seed,
        environment=environment or {},
    )
    return GuardedBackend(ReferenceBackend(context, make_process=process))


@asynccontextmanager
async def started(model_dir, script, *, ready=None, **others):
    process = FakeProcess(script, ready=ready)
    async with new_backend(model_dir, process, **others) as backend:
        yield backend, process
    assert process.is_closed


def request(prompt="hello", *, max_tokens=8, sampling=None, **fields):
    prompt = Text(prompt) if isinstance(prompt, str) else prompt
    params = SamplingParams(max_tokens=max_tokens, **(sampling or {}))
    return GenerationRequest(request_id="r", prompt=prompt, sampling=params, **fields)


async def collect(backend, asked):
    return [chunk async for chunk in backend.generate(asked)]


def chunks_of(model_dir, script, asked, **others):
    """All chunks of one request, and the engine's view of it."""

    async def main():
        async with started(model_dir, script, **others) as (backend, process):
            return await collect(backend, asked), process.streams[0]

    return asyncio.run(main())


def text_of(chunks):
    return "".join(chunk.text for chunk in chunks)
