"""Who is behind a URL: each release line, with its own model list and behind a proxy that writes another."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tensorrt_llm_asking import run
from tensorrt_llm_simulator import STATS_FILE

from enginebay.clock import MonotonicClock
from enginebay.probes.recognising import RecognisedServer, recognise_server
from enginebay.recognition import METRICS_PATH, MODELS_PATH
from enginebay.testing.simulators import INSTANT, Simulator
from enginebay.testing.simulators.exchange import Exchange, HttpRequest
from enginebay.wire.http_client import HttpClient
from enginebay_tensorrt_llm.recognise import PROMETHEUS_PATH

RELEASES = pytest.mark.parametrize("release", ["1.2", "1.3", "1.4"])
OTHER_LIST = {"object": "list", "data": [{"id": "simulated", "object": "model", "owned_by": "the proxy"}]}


@asynccontextmanager
async def watched(release: str, *flags: str, hides_owner: bool = False) -> AsyncIterator[tuple[Simulator, list[str]]]:
    """A simulator, and the paths that it is asked."""
    simulator = Simulator("tensorrt_llm", ("--simulated_release", release, *flags), profile=INSTANT, port=0)
    asked: list[str] = []
    handle = simulator.wire.handle

    def handled(request: HttpRequest, exchange: Exchange) -> None:
        asked.append(request.path)
        if hides_owner and request.path == MODELS_PATH:
            exchange.reply(200, json.dumps(OTHER_LIST).encode())
        else:
            handle(request, exchange)

    simulator.wire.handle = handled
    await simulator.start()
    try:
        yield simulator, asked
    finally:
        await simulator.aclose()


async def recognised(url: str) -> RecognisedServer:
    return await recognise_server(url, clock=MonotonicClock(), headers={})


async def post_completion(url: str) -> None:
    client = HttpClient(url, clock=MonotonicClock(), max_connections=1)
    body = json.dumps({"model": "simulated", "prompt": "one two", "max_tokens": 2}).encode()
    headers = {"content-type": "application/json"}
    try:
        assert (await client.request("POST", "/v1/completions", body=body, headers=headers)).status == 200
    finally:
        await client.aclose()


@pytest.fixture
def statistics(tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "options.yaml"
    path.write_text(STATS_FILE)
    return "--extra_llm_api_options", str(path)


@RELEASES
def test_its_own_model_list_is_enough_and_nothing_else_is_asked(release: str, statistics: tuple[str, ...]) -> None:
    async def main():
        async with watched(release, *statistics) as (simulator, asked):
            return await recognised(simulator.url), asked

    server, asked = run(main())
    assert (server.kind, asked) == ("tensorrt_llm", [MODELS_PATH])
    assert "'tensorrt_llm'" in server.because


@RELEASES
def test_behind_a_proxy_its_prometheus_text_tells_and_no_iteration_is_taken(
    release: str, statistics: tuple[str, ...]
) -> None:
    async def main():
        async with watched(release, *statistics, hides_owner=True) as (simulator, asked):
            await post_completion(simulator.url)
            return await recognised(simulator.url), asked

    server, asked = run(main())
    assert server.kind == "tensorrt_llm"
    assert PROMETHEUS_PATH in server.because
    assert METRICS_PATH not in asked


@RELEASES
def test_behind_a_proxy_and_without_prometheus_text_the_list_of_iterations_tells(release: str) -> None:
    async def main():
        async with watched(release, hides_owner=True) as (simulator, asked):
            return await recognised(simulator.url), asked

    server, asked = run(main())
    assert (server.kind, server.simulated) == ("tensorrt_llm", True)
    assert "a JSON list, of iterations" in server.because
    assert asked[-1] == METRICS_PATH, "what hands out its contents once is asked last"
    assert asked.count(METRICS_PATH) == 1
