"""Part 7: the metrics by their names, from the server and from plain Python."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from enginebay import GenerationRequest, SamplingParams, Text
from enginebay.guard import GuardedBackend
from enginebay.monitoring import instrument
from enginebay.testing import FakeBackend

LESSON_NAMES = {
    "llm_requests_total",
    "llm_request_latency_seconds",
    "llm_tokens_generated_total",
    "llm_tokens_per_second",
    "llm_batch_size",
}
"""And llm_gpu_memory_bytes, which is absent where there is no GPU: a zero would be a false reading."""


def published_names(text: str) -> set[str]:
    families = text_string_to_metric_families(text)
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


@pytest.mark.weights
def test_the_server_publishes_the_names_of_the_lesson(server_url: str) -> None:
    body = urllib.request.Request(
        f"{server_url}/v1/completions",
        data=b'{"prompt": "Water boils at", "max_tokens": 4, "temperature": 0}',
        headers={"content-type": "application/json"},
    )
    urllib.request.urlopen(body, timeout=60).read()
    text = urllib.request.urlopen(f"{server_url}/metrics", timeout=10).read().decode()
    assert published_names(text) >= LESSON_NAMES


def test_one_call_instruments_any_backend_in_plain_python() -> None:
    async def main() -> str:
        backend = instrument(GuardedBackend(FakeBackend()))
        async with backend:
            request = GenerationRequest(request_id="1", prompt=Text("hello"), sampling=SamplingParams(max_tokens=3))
            async for _ in backend.generate(request):
                pass
            return (await backend.metrics_text()).decode()

    text = asyncio.run(main())
    assert published_names(text) >= LESSON_NAMES - {"llm_batch_size"}
    assert "llm_requests_total{" in text
