"""A made-up `tensorrt_llm` of the shape that the contract lists: no model, words that count up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tensorrt_llm import llmapi

__version__ = "1.2.1+fake"
_CONSTRUCTOR = {
    "model", "tokenizer", "dtype", "tensor_parallel_size", "pipeline_parallel_size", "kv_cache_config",
    "speculative_config", "max_batch_size", "max_num_tokens", "max_seq_len", "enable_chunked_prefill",
    "enable_iter_perf_stats", "trust_remote_code",
}  # fmt: skip


class SamplingParams:
    """Defaults of the contract; an unknown keyword is an error."""

    def __init__(self, **given: Any) -> None:
        self.max_tokens = 32
        self.ignore_eos = False
        self.seed = None
        for name, value in given.items():
            setattr(self, name, value)


class _Completion:
    def __init__(self) -> None:
        self.text = self.text_diff = ""
        self.token_ids: list[int] = []
        self.token_ids_diff: list[int] = []
        self.finish_reason: str | None = None
        self.stop_reason = None


class RequestOutput:
    def __init__(self, prompt_token_ids: list[int], sampling: SamplingParams, llm: LLM) -> None:
        self.prompt_token_ids, self._sampling, self._llm = prompt_token_ids, sampling, llm
        self.outputs = [_Completion()]
        self.finished = False

    async def __aiter__(self) -> AsyncIterator[RequestOutput]:
        completion = self.outputs[0]
        for position in range(self._sampling.max_tokens):
            await asyncio.sleep(0.002)
            token_id = (self._sampling.seed or 0) % 100 + position
            completion.text_diff, completion.token_ids_diff = f" w{token_id}", [token_id]
            completion.text += completion.text_diff
            completion.token_ids = [*completion.token_ids, token_id]
            if position + 1 == self._sampling.max_tokens:
                completion.finish_reason, self.finished = "length", True
                self._llm.num_active -= 1
            self._llm.num_iterations += 1
            yield self

    def abort(self) -> None:
        self._llm.note("abort")
        self._llm.num_active -= 1


class LLM:
    def __init__(self, **given: Any) -> None:
        if unknown := set(given) - _CONSTRUCTOR:
            raise ValueError(f"LLM got invalid argument: {', '.join(sorted(unknown))}")
        self.num_active = self.num_iterations = 0
        cache = given.get("kv_cache_config")
        if cache is not None and not isinstance(cache, llmapi.KvCacheConfig):
            raise TypeError("kv_cache_config is no KvCacheConfig")
        speculation = given.get("speculative_config")
        self.note(f"start {sorted(given)} {type(speculation).__name__}")

    def note(self, what: str) -> None:
        with Path(os.environ["FAKE_TENSORRT_LLM_LOG"]).open("a") as log:
            log.write(what + "\n")

    def generate_async(
        self, inputs: str | list[int], sampling_params: SamplingParams, streaming: bool = False, cache_salt: Any = None
    ) -> RequestOutput:
        if isinstance(inputs, str) and "refused" in inputs:
            raise ValueError("the prompt is refused")
        self.num_active += 1
        return RequestOutput(inputs.split() if isinstance(inputs, str) else inputs, sampling_params, self)  # type: ignore[arg-type]

    async def get_stats_async(self, timeout: float) -> AsyncIterator[dict[str, Any]]:
        for _ in range(min(1, self.num_iterations)):
            self.num_iterations = 0
            yield {
                "numActiveRequests": self.num_active, "numQueuedRequests": 0, "gpuMemUsage": 7, "kvCacheStats": None,
                "inflightBatchingStats": {"numScheduledRequests": self.num_active}, "specDecodingStats": None,
            }  # fmt: skip

    def shutdown(self) -> None:
        self.note("shutdown")
