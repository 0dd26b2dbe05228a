"""vLLM's `AsyncLLM` in the worker process. Runs under the interpreter that has vLLM; of ours it needs little."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from enginebay.backends.in_process.foreign_engine import EngineFacts
from enginebay.backends.in_process.serve import serve_engine
from enginebay.backends.worker.channel import ChildChannel
from enginebay.errors import ContextTooLong, UpstreamError
from enginebay.types import EngineStats, GenerationChunk, GenerationRequest, Prompt, TokenIds
from enginebay.wire.prometheus_text import MetricsText, Sample
from enginebay_vllm.effective import EngineConfig, from_engine_config
from enginebay_vllm.in_process_errors import typed_errors
from enginebay_vllm.in_process_outputs import OutputReader, sampling_params
from enginebay_vllm.in_process_prompts import rendered
from enginebay_vllm.metrics import METRICS

_SECTIONS = tuple(EngineConfig.__struct_fields__)
_DEAD_EXIT_CODE = 70
_SHUTDOWN_S = 10.0


def main(channel: ChildChannel) -> None:
    serve_engine(channel, VllmEngine)


class VllmEngine:
    def __init__(self) -> None:
        self._engine: Any = None

    async def start(self, keywords: Mapping[str, object]) -> EngineFacts:
        """Blocks the loop while the engine loads: nobody else needs it yet."""
        import vllm  # pyright: ignore[reportMissingImports]
        from vllm.engine.arg_utils import AsyncEngineArgs  # pyright: ignore[reportMissingImports]
        from vllm.v1.engine.async_llm import AsyncLLM  # pyright: ignore[reportMissingImports]

        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**keywords))
        config = self._engine.vllm_config
        return EngineFacts(
            engine_version=vllm.__version__,
            max_model_len=config.model_config.max_model_len,
            effective_settings=_effective_settings(config),
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Cancelled with its task: the engine's own generator aborts the request then."""
        with typed_errors():
            self._engine.check_admission(1, request.request_id)
            prompt = await rendered(self._engine, request.prompt, request)
            _check_length(len(prompt["prompt_token_ids"]), request, limit=self._engine.model_config.max_model_len)
            params = sampling_params(request)
            reader = OutputReader(request)
            outputs = self._engine.generate(prompt, params, request.request_id, priority=request.priority)
            async for output in outputs:
                if (chunk := reader.read(output)) is not None:
                    yield chunk

    def stats(self) -> EngineStats:
        """From the engine's own Prometheus registry. An engine that is dead ends this process: nothing else would."""
        if self._engine.errored:
            sys.stderr.write("vLLM's engine core has ended\n")
            sys.stderr.flush()
            os._exit(_DEAD_EXIT_CODE)
        return METRICS.stats(_registered_metrics())

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, TokenIds):
            return prompt.token_ids
        with typed_errors():
            return tuple((await rendered(self._engine, prompt))["prompt_token_ids"])

    async def reset_prefix_cache(self) -> None:
        if not await self._engine.reset_prefix_cache():
            raise UpstreamError("the prefix cache was not reset: requests hold blocks of it")

    async def close(self) -> None:
        """Shut down, then dropped: collected at the interpreter's end it would complain."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.to_thread(engine.shutdown, _SHUTDOWN_S)


def _check_length(num_tokens: int, request: GenerationRequest, *, limit: int) -> None:
    """vLLM would generate what fits and call it `length`."""
    max_tokens = request.sampling.max_tokens
    if num_tokens + max_tokens > limit:
        raise ContextTooLong(num_tokens=num_tokens, limit=limit, max_tokens=max_tokens)


def _effective_settings(config: Any) -> Mapping[str, object]:
    sections = {name: _plain_fields(getattr(config, name, None)) for name in _SECTIONS}
    return from_engine_config(EngineConfig(**sections))


def _plain_fields(section: Any) -> dict[str, object] | None:
    """What a configuration object of the engine holds; values that are no plain ones as their text."""
    if section is None:
        return None
    names = [name for name in getattr(section, "__dataclass_fields__", ()) if hasattr(section, name)]
    return {name: _plain(getattr(section, name)) for name in names}


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _registered_metrics() -> MetricsText:
    from prometheus_client import REGISTRY

    samples: dict[str, list[Sample]] = {}
    for family in REGISTRY.collect():
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(Sample(sample.labels, sample.value))
    return MetricsText({name: tuple(found) for name, found in samples.items()})
