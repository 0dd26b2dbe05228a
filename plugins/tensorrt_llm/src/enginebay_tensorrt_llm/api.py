"""trtllm-serve as an `EngineApi`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from enginebay.backends.http_engine.api import PROBE_TIMEOUT_S, HttpCall, health_without_answer
from enginebay.errors import BackendError, EngineBayError, StartFailed, UpstreamError
from enginebay.quantities import SIMULATED_HEADER, SIMULATED_METRIC
from enginebay.types import BackendInfo, EngineStats, GenerationRequest, Health, HealthState
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpResponse
from enginebay.wire.openai_encode import PATHS, form_of, is_streamed
from enginebay.wire.prometheus_text import MetricsText, parse_metrics
from enginebay_tensorrt_llm.answer_errors import error_of
from enginebay_tensorrt_llm.capabilities import capabilities
from enginebay_tensorrt_llm.decoder import TrtllmDecoder
from enginebay_tensorrt_llm.iteration_stats import IterationReader
from enginebay_tensorrt_llm.metrics import LINE_1_3, NEWEST, stats_of
from enginebay_tensorrt_llm.options import TensorrtLlmOptions
from enginebay_tensorrt_llm.requests import encode

_PROMETHEUS = "/prometheus/metrics"


class _Version(msgspec.Struct):
    version: str


class _Card(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Card]


class TrtllmApi:
    def __init__(
        self,
        options: TensorrtLlmOptions,
        *,
        name: str,
        version: str | None,
        seed: int,
        served_model_name: str | None,
        is_ours: bool,
    ) -> None:
        """seed: of the seeds of requests that bring none. is_ours: we launch the server, with the model we name."""
        self._options, self._name, self._is_ours = options, name, is_ours
        self._version = version
        self._served_model_name = served_model_name
        self._seeds = random.Random(seed)
        self._iterations = IterationReader(backend=name)
        self._was_ready = False

    # ---------------------------------------------------------------- requests

    def call(self, request: GenerationRequest, info: BackendInfo) -> HttpCall:
        body = encode(
            request,
            model=info.model,
            backend=self._name,
            drawn_seed=self._seeds.getrandbits(62),
            token_ids_only=self._options.token_ids_only,
        )
        form = form_of(request)
        decoder = TrtllmDecoder(form, backend=self._name, num_alternatives=request.logprobs)
        return HttpCall(path=PATHS[form], body=body, decoder=decoder, is_streamed=is_streamed(request))

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> EngineBayError:
        return error_of(status, body, headers, backend=self._name)

    # ---------------------------------------------------------------- the server

    async def health(self, http: HttpClient) -> Health:
        """A server that loads is not there yet: line 1.2 opens its port when the model is loaded, 1.3 listens then."""
        try:
            response = await http.request("GET", "/health", timeout_s=PROBE_TIMEOUT_S)
        except BackendError as error:
            return health_without_answer(error, was_ready=self._was_ready)
        if response.status == 200:
            self._was_ready = True
            return Health(HealthState.READY)
        reason = response.body.decode("utf-8", "replace").strip() or f"HTTP {response.status}"
        return Health(HealthState.DEAD if response.status == 503 else HealthState.DEGRADED, reason)

    async def identify(self, http: HttpClient, info: BackendInfo) -> BackendInfo:
        """Never reads /metrics: that would take samples from `stats`."""
        models = await http.request("GET", "/v1/models", timeout_s=PROBE_TIMEOUT_S)
        listed = self._listed(models)
        version = await self._read_version(http)
        metrics = await self._prometheus(http)
        is_simulated = models.headers.get(SIMULATED_HEADER) == "1"
        return replace(
            info,
            model=self._model_name(listed, info.model),
            capabilities=capabilities(version or self._version, self._options),
            engine_version=version,
            effective_settings={} if metrics is None else _told_settings(metrics),
            simulated=is_simulated or (metrics is not None and metrics.value(SIMULATED_METRIC) == 1),
        )

    async def stats(self, http: HttpClient) -> EngineStats:
        """Prometheus where there is any; from the iteration statistics what that lacks."""
        metrics = await self._prometheus(http)
        generation, stats = (None, EngineStats()) if metrics is None else stats_of(metrics)
        if generation is NEWEST and stats.requests_running is not None:
            return stats
        # From line 1.3 on the server feeds its gauges from the same list, and may have emptied it before us.
        is_sole_reader = generation is not LINE_1_3 and generation is not NEWEST
        iterations = await self._iterations.read(http, is_sole_reader=is_sole_reader)
        return _filled(stats, iterations)

    async def _prometheus(self, http: HttpClient) -> MetricsText | None:
        """None where the server was started without return_perf_metrics: the route is not there then."""
        response = await http.request("GET", _PROMETHEUS, timeout_s=PROBE_TIMEOUT_S)
        if response.status == 404:
            return None
        if response.status != 200:
            raise self.error(response.status, response.body, response.headers)
        return parse_metrics(response.body.decode("utf-8", "replace"))

    def _listed(self, response: HttpResponse) -> list[str]:
        if response.status != 200:
            raise self.error(response.status, response.body, response.headers)
        try:
            return [card.id for card in msgspec.json.decode(response.body, type=_Models).data]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(f"/v1/models answered with no model list: {error}", backend=self._name) from error

    async def _read_version(self, http: HttpClient) -> str | None:
        response = await http.request("GET", "/version", timeout_s=PROBE_TIMEOUT_S)
        try:
            return msgspec.json.decode(response.body, type=_Version).version if response.status == 200 else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _model_name(self, listed: list[str], model: str) -> str:
        """Any name is answered, by whatever model there is: the list alone tells which one that is."""
        if self._is_ours or not listed:
            return self._served_model_name or (listed[0] if listed else model)
        wanted = (self._served_model_name or model).removeprefix("hf:")
        for name in listed:
            if name in (wanted, wanted.rstrip("/").rpartition("/")[2]):
                return name
        raise StartFailed(
            f"{self._name}: the server has no model {wanted!r}; it serves {', '.join(map(repr, listed))}",
            backend=self._name,
            likely_cause="the model goes by another name there: set engine.served_model_name",
        )


def _told_settings(metrics: MetricsText) -> dict[str, object]:
    """The newest line alone has its limits among the metrics, once an iteration has run."""
    told = {
        "max_num_seqs": metrics.value("trtllm_max_batch_size_static"),
        "max_num_batched_tokens": metrics.value("trtllm_max_num_tokens_runtime"),
        "kv_cache_max_blocks": metrics.value("trtllm_kv_cache_max_blocks"),
        "kv_cache_tokens_per_block": metrics.value("trtllm_kv_cache_tokens_per_block"),
    }
    return {name: int(value) for name, value in told.items() if value is not None}


def _filled(stats: EngineStats, other: EngineStats) -> EngineStats:
    """What the first leaves open, by the second."""
    gaps = {
        name: getattr(other, name)
        for name in EngineStats.__slots__
        if name != "extra" and getattr(stats, name) is None and getattr(other, name) is not None
    }
    return replace(stats, **gaps)
