from __future__ import annotations

import asyncio
import subprocess
import sys

import openai
import pytest

from enginebay.clock import MonotonicClock
from enginebay.testing import Fault, Script, ScriptedServer
from enginebay.wire.http_client import HttpClient
from enginebay.wire.prometheus_text import parse_metrics


def run(main):
    asyncio.run(asyncio.wait_for(main(), 30))


def official(server: ScriptedServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0)


# ---------------------------------------------------------------- driven by the official client


def test_the_official_client_reads_a_streamed_completion():
    async def main():
        async with ScriptedServer() as server, official(server) as client:
            stream = await client.completions.create(
                model="scripted", prompt="a b c", max_tokens=3, stream=True, stream_options={"include_usage": True}
            )
            events = [event async for event in stream]
            assert "".join(event.choices[0].text for event in events if event.choices) == " the quick brown"
            assert [event.choices[0].finish_reason for event in events if event.choices] == [None, None, "length"]
            assert events[-1].usage.prompt_tokens == 3
            assert events[-1].usage.completion_tokens == 3

    run(main)


def test_the_official_client_reads_a_streamed_chat_with_its_log_probabilities():
    async def main():
        async with ScriptedServer() as server, official(server) as client:
            stream = await client.chat.completions.create(
                model="scripted",
                messages=[{"role": "user", "content": "hi"}],
                max_tokens=2,
                stream=True,
                logprobs=True,
                top_logprobs=2,
            )
            events = [event async for event in stream]
            assert events[0].choices[0].delta.role == "assistant"
            assert [event.choices[0].delta.content for event in events] == ["", " the", " quick"]
            content = events[1].choices[0].logprobs.content
            assert [top.token for top in content[0].top_logprobs] == [" the", "alt1"]

    run(main)


def test_the_official_client_reads_whole_answers_models_and_errors():
    async def main():
        async with ScriptedServer() as server, official(server) as client:
            completion = await client.completions.create(model="scripted", prompt="a", max_tokens=2, logprobs=1)
            assert completion.choices[0].text == " the quick"
            assert completion.choices[0].logprobs.tokens == [" the", " quick"]
            chat = await client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "x"}])
            assert chat.choices[0].message.content.startswith(" the quick")
            assert [model.id async for model in await client.models.list()] == ["scripted"]
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                await client.completions.create(model="nothing", prompt="a")
            server.script = Script(fault=Fault.OVERLOADED)
            with pytest.raises(openai.InternalServerError) as caught:
                await client.completions.create(model="scripted", prompt="a")
            assert caught.value.response.headers["retry-after"] == "2"

    run(main)


def test_the_official_client_sees_an_error_inside_a_stream():
    async def main():
        script = Script(fault=Fault.ERROR_EVENT, fault_after_tokens=1)
        async with ScriptedServer(script) as server, official(server) as client:
            stream = await client.completions.create(model="scripted", prompt="a", stream=True)
            assert (await anext(aiter(stream))).choices[0].text == " the"
            with pytest.raises(openai.APIError, match="the engine died"):
                await anext(aiter(stream))

    run(main)


# ---------------------------------------------------------------- as a test sees it


def test_every_answer_says_that_it_is_simulated():
    async def main():
        async with ScriptedServer() as server:
            client = HttpClient(server.url, clock=MonotonicClock())
            for path in ("/health", "/v1/models", "/metrics", "/nowhere"):
                response = await client.request("GET", path)
                assert response.headers["x-enginebay-simulated"] == "1"
            metrics = parse_metrics((await client.request("GET", "/metrics")).body.decode())
            assert metrics.value("enginebay_simulated") == 1
            await client.aclose()

    run(main)


def test_it_tells_what_it_received_and_decides_for_each_request():
    def script(request):
        return Script(num_tokens=len(request.json()["prompt"]))

    async def main():
        async with ScriptedServer(script) as server, official(server) as client:
            for prompt in ("ab", "abcde"):
                completion = await client.completions.create(model="scripted", prompt=prompt, max_tokens=9)
                assert completion.usage.completion_tokens == len(prompt)
            assert [request.json()["prompt"] for request in server.generations] == ["ab", "abcde"]
            assert server.generations[0].headers["authorization"] == "Bearer k"

    run(main)


def test_it_can_be_killed_and_comes_back_on_the_same_port():
    async def main():
        server = ScriptedServer()
        await server.start()
        url = server.url
        await server.aclose()
        await server.start()
        assert server.url == url
        client = HttpClient(url, clock=MonotonicClock())
        assert (await client.request("GET", "/health")).status == 200
        await client.aclose()
        await server.aclose()

    run(main)


def test_it_serves_from_the_shell_until_it_is_told_to_stop():
    command = [sys.executable, "-m", "enginebay.testing.scripted_server", "--tokens", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()

            async def main():
                async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="k") as client:
                    completion = await client.completions.create(model="scripted", prompt="a", max_tokens=9)
                    assert (completion.choices[0].text, completion.choices[0].finish_reason) == (" the quick", "stop")

            run(main)
        finally:
            process.terminate()
        assert process.stderr.read() == ""
