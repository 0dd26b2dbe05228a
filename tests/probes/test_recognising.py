from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from enginebay.clock import MonotonicClock
from enginebay.errors import StartFailed
from enginebay.probes.recognising import RecognisedServer, recognise_server
from enginebay.recognition import Answer, metric_evidence, owner_evidence
from enginebay.testing.scripted_server import ScriptedServer
from enginebay.testing.simulators.thread import SimulatorThread


def recognised(url: str) -> RecognisedServer:
    return asyncio.run(recognise_server(url, clock=MonotonicClock(), headers={}))


def scripted(owned_by: str, **more) -> RecognisedServer:
    async def main():
        async with ScriptedServer(owned_by=owned_by, **more) as server:
            return await recognise_server(f"{server.url}/v1", clock=MonotonicClock(), headers={})

    return asyncio.run(main())


@pytest.mark.parametrize("kind", ["vllm", "tgi", "tensorrt_llm", "sglang", "llama_cpp"])
def test_every_plugin_knows_its_own_engine_from_all_others_and_sees_that_it_is_simulated(kind) -> None:
    with closing(SimulatorThread(kind)) as simulator:
        server = recognised(simulator.url)
    assert (server.kind, server.simulated) == (kind, True)
    assert [model.id for model in server.models] == ["simulated"]


def test_our_own_server_and_one_that_nobody_knows_are_reached_as_openai_servers() -> None:
    ours, unknown = scripted("enginebay"), scripted("somebody")
    assert ours.kind == unknown.kind == "openai_http"
    assert "owned by 'enginebay'" in ours.because
    assert "no other backend knows it" in unknown.because
    assert not ours.url.endswith("/v1")


def test_a_metric_is_enough_where_the_owner_says_nothing() -> None:
    metrics = Answer(status=200, headers={}, body=b"# HELP x\nvllm:num_requests_running 1\n")
    assert metric_evidence({"/metrics": metrics}, "vllm:")
    assert metric_evidence({"/metrics": metrics}, "sglang:") is None
    assert owner_evidence({"/v1/models": Answer(status=200, headers={}, body=b"no json")}, "vllm") is None


def test_what_cannot_be_measured_is_told_apart() -> None:
    with pytest.raises(StartFailed, match=r"nothing answers at http://127\.0\.0\.1:9"):
        recognised("http://127.0.0.1:9")
    with closing(SimulatorThread("vllm", "--api-key", "key")) as simulator, pytest.raises(StartFailed) as refused:
        recognised(simulator.url)
    assert "refuses us (HTTP 401)" in str(refused.value)
    assert "--api-key-env" in str(refused.value)


def test_a_web_server_is_no_language_model() -> None:
    async def main():
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while (await reader.readline()).strip():
                pass
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await recognise_server(f"http://127.0.0.1:{port}", clock=MonotonicClock(), headers={})

    with pytest.raises(StartFailed, match="as no server of a language model: /v1/models gave HTTP 404"):
        asyncio.run(main())
