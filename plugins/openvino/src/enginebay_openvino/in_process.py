"""OpenVINO GenAI's ContinuousBatchingPipeline in the worker process. Runs under the interpreter that has it."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from enginebay.backends.in_process.foreign_engine import EngineFacts
from enginebay.backends.in_process.serve import serve_engine
from enginebay.backends.request_metrics import RequestMetrics
from enginebay.backends.worker.channel import ChildChannel
from enginebay.errors import InvalidRequest, StartFailed
from enginebay.types import EngineStats, GenerationChunk, GenerationRequest, Prompt
from enginebay_openvino.effective import effective_settings
from enginebay_openvino.engine_stats import engine_stats
from enginebay_openvino.generation_config import generation_config
from enginebay_openvino.outputs import OutputReader
from enginebay_openvino.prompts import fitting, prompt_token_ids
from enginebay_openvino.stepping import Stepper, first_line
from enginebay_openvino.tokenizer_files import byte_pieces, model_config
from enginebay_openvino.vocabulary import BytesText, DecodedText, TokenText

_DRAWN_SEED_BITS = 62


def main(channel: ChildChannel) -> None:
    serve_engine(channel, OpenVinoEngine)


class OpenVinoEngine:
    """keywords of `start`: `model` (a directory with openvino_model.xml), `device`, and the sections of the plan."""

    def __init__(self) -> None:
        self._genai: Any = None
        self._openvino: Any = None
        self._pipeline: Any = None
        self._tokenizer: Any = None
        self._stepper: Any = None
        self._metrics = RequestMetrics()
        self._num_live = 0
        self._eos_ids: frozenset[int] = frozenset()
        self._bytes: tuple[list[bytes], frozenset[int]] | None = None
        self._vocab_size = 0
        self._limit: int | None = None
        self._seeds = random.Random()

    # ---------------------------------------------------------------- life

    async def start(self, keywords: Mapping[str, Any]) -> EngineFacts:
        """Blocks the loop while the engine loads: nobody else needs it yet."""
        import openvino  # pyright: ignore[reportMissingImports]
        import openvino_genai  # pyright: ignore[reportMissingImports]

        self._openvino, self._genai = openvino, openvino_genai
        directory, adapter = Path(keywords["model"]), keywords.get("adapter", {})
        scheduler = _scheduler_config(openvino_genai, keywords.get("scheduler", {}))
        properties = dict(keywords.get("properties", {}))
        try:
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(
                str(directory), scheduler, keywords["device"], properties
            )
        except RuntimeError as error:
            raise StartFailed(f"OpenVINO cannot load {directory}: {first_line(error)}") from error
        self._read_model(directory, adapter, scheduler)
        self._stepper = Stepper(self._pipeline, max_num_seqs=scheduler.max_num_seqs)
        return EngineFacts(
            engine_version=openvino_genai.__version__.partition("-")[0],
            max_model_len=self._limit,
            effective_settings=effective_settings(
                openvino,
                scheduler,
                device=keywords["device"],
                directory=directory,
                max_model_len=self._limit,
            ),
        )

    def _read_model(self, directory: Path, adapter: Mapping[str, Any], scheduler: Any) -> None:
        self._tokenizer = self._pipeline.get_tokenizer()
        defaults = self._pipeline.get_config()
        own_ends = {defaults.eos_token_id, self._tokenizer.get_eos_token_id(), *defaults.stop_token_ids}
        self._eos_ids = frozenset(token_id for token_id in own_ends if token_id >= 0)
        vocabulary = self._tokenizer.get_vocab()
        self._bytes = byte_pieces(directory, vocabulary)
        config = model_config(directory)
        self._vocab_size = config.vocab_size or len(vocabulary)
        limits = [config.max_position_embeddings, adapter.get("max_model_len")]
        if not scheduler.dynamic_split_fuse:  # a prompt is computed in one step, and a longer one would break that step
            limits.append(scheduler.max_num_batched_tokens)
        self._limit = min((limit for limit in limits if limit is not None), default=None)
        self._seeds = random.Random(adapter.get("seed"))

    async def close(self) -> None:
        if self._stepper is not None:
            await self._stepper.close()
        self._stepper = self._pipeline = self._tokenizer = None

    # ---------------------------------------------------------------- requests

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        prompt_ids = prompt_token_ids(self._tokenizer, request.prompt, vocab_size=self._vocab_size)
        prompt_ids = fitting(request, prompt_ids, limit=self._limit)
        reader = self._reader(request, prompt_ids)
        config = self._config(request)
        times = self._metrics.begin(arrived_at=time.monotonic())
        times.prompt(len(prompt_ids))
        times.cancelled()  # how it ends if no last chunk comes
        self._num_live += 1
        try:
            outputs = self._stepper.outputs(self._tensor(prompt_ids), config, on_admitted=times.queued)
            async with aclosing(outputs):
                async for output in outputs:
                    chunk = reader.read(output)
                    times.chunk(replace(chunk, received_at=time.monotonic()))
                    yield chunk
                    if chunk.finish_reason is not None:
                        return
        finally:
            self._num_live -= 1
            times.end()

    def stats(self) -> EngineStats:
        return engine_stats(self._pipeline.get_metrics(), self._metrics, num_live=self._num_live)

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return prompt_token_ids(self._tokenizer, prompt, vocab_size=self._vocab_size)

    def _config(self, request: GenerationRequest) -> Any:
        seed = request.sampling.seed
        drawn = self._seeds.getrandbits(_DRAWN_SEED_BITS) if seed is None else seed
        config = generation_config(self._genai.GenerationConfig, request, eos_ids=self._eos_ids, seed=drawn)
        try:
            config.validate()
        except RuntimeError as error:
            raise InvalidRequest(f"the engine refuses these sampling fields: {first_line(error)}") from error
        return config

    def _reader(self, request: GenerationRequest, prompt_ids: tuple[int, ...]) -> OutputReader:
        return OutputReader(
            request,
            prompt_token_ids=prompt_ids,
            eos_ids=self._eos_ids,
            text=self._text(skip_special_tokens=request.sampling.skip_special_tokens),
            decode=lambda token_ids: self._tokenizer.decode(token_ids, skip_special_tokens=False),
        )

    def _text(self, *, skip_special_tokens: bool) -> TokenText:
        if self._bytes is None:
            return DecodedText(lambda ids: self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))
        pieces, special_ids = self._bytes
        return BytesText(pieces, skipped_ids=special_ids if skip_special_tokens else ())

    def _tensor(self, token_ids: tuple[int, ...]) -> Any:
        import numpy

        return self._openvino.Tensor(numpy.array([token_ids], dtype=numpy.int64))


def _scheduler_config(genai: Any, values: Mapping[str, Any]) -> Any:
    """Raises StartFailed for what would break every step later."""
    config = genai.SchedulerConfig()
    for name, value in values.items():
        setattr(config, name, value)
    if not config.dynamic_split_fuse and config.max_num_seqs > config.max_num_batched_tokens:
        raise StartFailed(
            f"max_num_seqs ({config.max_num_seqs}) is more than max_num_batched_tokens "
            f"({config.max_num_batched_tokens}), which the engine does not allow without chunked_prefill: set both"
        )
    return config
