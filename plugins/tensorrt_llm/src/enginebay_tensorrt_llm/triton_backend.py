"""Triton has its metrics at a port of their own: one more connection than other engines need."""

from __future__ import annotations

from urllib.parse import urlsplit

from enginebay.backend import BackendContext
from enginebay.backends.http_engine.backend import HttpEngineBackend
from enginebay.backends.http_engine.server import OwnedServer
from enginebay.errors import NotStarted
from enginebay.types import Capabilities, EngineStats
from enginebay.wire.http_client import HttpClient
from enginebay_tensorrt_llm.command import TRITON_METRICS_PORT, triton_metrics_port
from enginebay_tensorrt_llm.triton_api import TritonApi


class TritonBackend(HttpEngineBackend):
    def __init__(
        self, context: BackendContext, *, api: TritonApi, capabilities: Capabilities, server: OwnedServer | None
    ) -> None:
        super().__init__(context, kind="tensorrt_llm", api=api, capabilities=capabilities, server=server)
        self._triton = api
        self._metrics: HttpClient | None = None

    async def start(self) -> None:
        await super().start()
        self._metrics = self._client(self._metrics_url(), 1)

    async def stats(self) -> EngineStats:
        if self._metrics is None:
            raise NotStarted("call start() first", backend=self._context.name)
        return await self._triton.stats(self._metrics)

    async def aclose(self) -> None:
        if self._metrics is not None:
            await self._metrics.aclose()
        await super().aclose()

    def _metrics_url(self) -> str:
        options = self._context.options
        if options.metrics_url is not None:
            return options.metrics_url.rstrip("/").removesuffix("/metrics")
        parts = urlsplit(self._url)
        port = TRITON_METRICS_PORT
        if self._server is not None and parts.port is not None:
            port = triton_metrics_port(options.model_copy(update={"port": parts.port}))
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}:{port}"
