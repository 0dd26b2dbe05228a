"""A made-up `tensorrt_llm` of the shape that the contract lists: no model, words that count up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorrt_llm import llmapi
from tensorrt_llm.names import CONSTRUCTOR, SAMPLING_PARAMS

__version__ = "1.2.1+fake"
LONGEST = 400


class SamplingParams:
    """Defaults of the contract; an unknown keyword is an error."""

    max_tokens: int
    seed: int | None

    def __init__(self, **given: Any) -> None:
        if unknown := given.keys() - SAMPLING_PARAMS.keys():
            raise TypeError(f"SamplingParams got an unexpected keyword argument {', '.join(sorted(unknown))}")
        self.__dict__.update({**SAMPLING_PARAMS, **given})


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


def _completed(given: dict[str, Any]) -> SimpleNamespace:
    """As the real one completes its arguments; this one has a length that it does not go beyond."""
    defaults = {"dtype": "auto", "tensor_parallel_size": 1, "pipeline_parallel_size": 1, "max_batch_size": 2048}
    completed = {**dict.fromkeys(CONSTRUCTOR), **defaults, **given}
    if completed["max_seq_len"] is not None:
        completed["max_seq_len"] = min(completed["max_seq_len"], LONGEST)
    return SimpleNamespace(**completed)


class LLM:
    def __init__(self, **given: Any) -> None:
        if unknown := set(given) - set(CONSTRUCTOR):
            raise ValueError(f"LLM got invalid argument: {', '.join(sorted(unknown))}")
        self.num_active = self.num_iterations = 0
        cache = given.get("kv_cache_config")
        if cache is not None and not isinstance(cache, llmapi.KvCacheConfig):
            raise TypeError("kv_cache_config is no KvCacheConfig")
        if os.environ.get("FAKE_TENSORRT_LLM_IS_SILENT") is None:
            self.args = _completed(given)
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
        if Path(os.environ["FAKE_TENSORRT_LLM_LOG"]).with_name("no_statistics").exists():
            raise RuntimeError("the executor has no statistics")
        for _ in range(min(1, self.num_iterations)):
            self.num_iterations = 0
            yield {
                "numActiveRequests": self.num_active, "numQueuedRequests": 0, "gpuMemUsage": 7, "kvCacheStats": None,
                "inflightBatchingStats": {"numScheduledRequests": self.num_active}, "specDecodingStats": None,
            }  # fmt: skip

    def shutdown(self) -> None:
        self.note("shutdown")
