"""Triton over TensorRT-LLM as an `EngineApi`: /v2/models/<model>/generate and generate_stream."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from enginebay.backends.http_engine.api import PROBE_TIMEOUT_S, HttpCall, health_without_answer
from enginebay.errors import (
    BackendError,
    BackendUnavailable,
    EngineBayError,
    InvalidRequest,
    UnknownModel,
    UnsupportedFeature,
    UpstreamError,
)
from enginebay.quantities import SIMULATED_HEADER
from enginebay.types import BackendInfo, EngineStats, GenerationRequest, Health, HealthState, SamplingParams, Text
from enginebay.wire.http_client import HttpClient
from enginebay.wire.openai_errors import read_error
from enginebay.wire.prometheus_text import parse_metrics
from enginebay_tensorrt_llm.metrics import TRITON
from enginebay_tensorrt_llm.options import TensorrtLlmOptions
from enginebay_tensorrt_llm.triton_decoder import TritonDecoder

_encode = msgspec.json.Encoder().encode
_MAX_SEED = 2**64


class TritonApi:
    def __init__(self, options: TensorrtLlmOptions, *, name: str, seed: int) -> None:
        self._model, self._name = options.triton_model, name
        self._seeds = random.Random(seed)
        self._was_ready = False

    def call(self, request: GenerationRequest, info: BackendInfo) -> HttpCall:
        is_streamed = request.delivery == "stream"
        body = _encode({**self._fields(request), "stream": is_streamed})
        decoder = TritonDecoder(backend=self._name, max_tokens=request.sampling.max_tokens)
        route = "generate_stream" if is_streamed else "generate"
        return HttpCall(path=f"/v2/models/{self._model}/{route}", body=body, decoder=decoder, is_streamed=is_streamed)

    def _fields(self, request: GenerationRequest) -> dict[str, object]:
        prompt, sampling = request.prompt, request.sampling
        assert isinstance(prompt, Text)  # the capabilities refuse the others
        if not prompt.add_special_tokens:
            raise UnsupportedFeature(
                field="add_special_tokens", backend=self._name, detail="the model repository decides it for all"
            )
        seed = self._seeds.getrandbits(62) if sampling.seed is None else sampling.seed
        # An answer has no usage: the counts have to be asked for, one by one.
        return {
            "text_input": prompt.text,
            "max_tokens": sampling.max_tokens,
            "seed": seed % _MAX_SEED,
            "return_num_input_tokens": True,
            "return_num_output_tokens": True,
            "exclude_input_in_output": True,
            **_sampling(sampling),
        }

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> EngineBayError:
        detail = read_error(body)
        message = detail.message if detail is not None else f"HTTP {status}"
        if status == 400:
            return InvalidRequest(message)
        if status == 404:
            return UnknownModel(self._model, available=())
        if status == 503:
            return BackendUnavailable(message, backend=self._name)
        return UpstreamError(f"{message} (HTTP {status})", backend=self._name, status=status)

    async def health(self, http: HttpClient) -> Health:
        """While not ready the answer is 400, not 503."""
        try:
            ready = await http.request("GET", "/v2/health/ready", timeout_s=PROBE_TIMEOUT_S)
            if ready.status == 200:
                self._was_ready = True
                return Health(HealthState.READY)
            live = await http.request("GET", "/v2/health/live", timeout_s=PROBE_TIMEOUT_S)
        except BackendError as error:
            return health_without_answer(error, was_ready=self._was_ready)
        state = HealthState.LOADING if live.status == 200 else HealthState.DEAD
        return Health(state, f"Triton is not ready (HTTP {ready.status})")

    async def identify(self, http: HttpClient, info: BackendInfo) -> BackendInfo:
        """Triton tells its own version, not TensorRT-LLM's: that one stays unknown."""
        ready = await http.request("GET", "/v2/health/ready", timeout_s=PROBE_TIMEOUT_S)
        is_simulated = ready.headers.get(SIMULATED_HEADER) == "1"
        return replace(info, effective_settings={"triton_model": self._model}, simulated=is_simulated)

    async def stats(self, http: HttpClient) -> EngineStats:
        """http: to the port of the metrics."""
        response = await http.request("GET", "/metrics", timeout_s=PROBE_TIMEOUT_S)
        if response.status != 200:
            raise self.error(response.status, response.body, response.headers)
        return TRITON.stats(parse_metrics(response.body.decode("utf-8", "replace")))


def _sampling(sampling: SamplingParams) -> dict[str, object]:
    """Greedy is top_k 1: a temperature of zero is no number that every release divides by."""
    fields: dict[str, object] = {
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "min_tokens": sampling.min_tokens,
    }
    if sampling.temperature == 0:
        fields |= {"top_k": 1, "temperature": 1.0}
    else:
        fields |= {"top_k": sampling.top_k, "temperature": sampling.temperature}
    if sampling.stop:
        fields["stop_words"] = sampling.stop
    return fields
