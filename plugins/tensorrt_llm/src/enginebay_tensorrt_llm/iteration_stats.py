"""GET /metrics of trtllm-serve: a JSON list with one entry for each iteration, which every read empties.

So there is one reader for each backend, which adds up what is counted; nothing else here reads that path.
"""

from __future__ import annotations

import asyncio

from enginebay.backends.http_engine.api import PROBE_TIMEOUT_S
from enginebay.errors import UpstreamError
from enginebay.types import EngineStats
from enginebay.wire.http_client import HttpClient
from enginebay_tensorrt_llm.iterations import IterationCounts

PATH = "/metrics"


class IterationReader:
    """The one reader."""

    def __init__(self, *, backend: str) -> None:
        self._backend = backend
        self._counts = IterationCounts(backend=backend)
        self._lock = asyncio.Lock()
        self._num_reads = 0

    async def read(self, http: HttpClient, *, is_sole_reader: bool) -> EngineStats:
        """Callers that wait for a read in progress share its result: two reads would share the entries.

        is_sole_reader: the server itself does not read too, so that no entries means that nothing was computed.
        """
        num_reads = self._num_reads
        async with self._lock:
            if self._num_reads == num_reads:
                # With nothing queued the server itself waits up to two seconds.
                response = await http.request("GET", PATH, timeout_s=PROBE_TIMEOUT_S)
                if response.status != 200:
                    raise UpstreamError(f"{PATH} answered HTTP {response.status}", backend=self._backend)
                self._counts.add(response.body, is_sole_reader=is_sole_reader)
                self._num_reads += 1
        return self._counts.stats()
