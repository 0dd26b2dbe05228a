"""What a start learns, waits for and refuses."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from openai_http_asking import request, run, serving, settled

from enginebay import get_backend
from enginebay.backends.openai_http.options import OpenAIHttpOptions
from enginebay.errors import (
    ConfigError,
    StartFailed,
    UnsupportedFeature,
)
from enginebay.testing import FakeClock, ScriptedServer
from enginebay.types import (
    Feature,
    HealthState,
    SamplingParams,
)


def test_a_start_learns_model_length_version_dialect_and_that_it_is_simulated():
    async def main():
        async with serving(owned_by="vllm", max_model_len=2048) as (_, backend):
            info = backend.info
            assert (info.kind, info.model, info.max_model_len) == ("openai_http", "scripted", 2048)
            assert (info.engine_version, info.simulated) == ("scripted", True)
            assert info.effective_settings == {"dialect": "vllm", "owned_by": "vllm", "max_model_len": 2048}
            assert Feature.IGNORE_EOS in info.capabilities
            assert (await backend.health()).state is HealthState.READY

    run(main)


def test_a_server_of_unknown_make_is_asked_for_nothing_beyond_the_openai_api():
    async def main():
        async with serving(owned_by="acme") as (server, backend):
            assert Feature.IGNORE_EOS not in backend.info.capabilities
            with pytest.raises(UnsupportedFeature, match="ignore_eos"):
                backend.generate(replace(request(), sampling=SamplingParams(max_tokens=1, ignore_eos=True)))
            [chunk async for chunk in backend.generate(request())]
            assert "top_k" not in server.generations[0].json()

    run(main)


def test_the_dialect_can_be_given():
    async def main():
        async with serving(owned_by="acme", options={"dialect": "vllm"}) as (server, backend):
            [chunk async for chunk in backend.generate(request())]
            assert server.generations[0].json()["top_k"] == 0

    run(main)


def test_a_start_waits_while_the_server_loads_or_is_not_there_yet():
    clock = FakeClock()
    server = ScriptedServer(clock=clock)

    async def come_up():
        await server.start()
        port, server.health_status = server.port, 503
        await server.aclose()
        await clock.sleep_until(3.0)
        await server.start(port=port)
        await clock.sleep_until(6.0)
        server.health_status = 200

    async def ask():
        coming = asyncio.create_task(come_up())
        await settled(lambda: server.port)
        backend = get_backend("openai_http", url=server.url, model="scripted", clock=clock)
        async with backend:
            assert 6.0 <= clock.now() < 6.5
        await coming
        await server.aclose()

    run(lambda: clock.run(ask()))


@pytest.mark.parametrize(
    ("server_settings", "backend_settings", "problem", "cause"),
    [
        ({}, {"model": "other"}, "no model 'other'; it serves 'scripted'", "options.served_model_name"),
        ({"api_key": "right"}, {"options": {"api_key": "wrong"}}, "refuses us", "API key"),
    ],
)
def test_a_start_that_cannot_succeed_fails_at_once_with_the_cause(server_settings, backend_settings, problem, cause):
    async def main():
        async with ScriptedServer(**server_settings) as server:
            backend = get_backend("openai_http", url=server.url, **{"model": "scripted", **backend_settings})
            with pytest.raises(StartFailed, match=problem) as caught:
                await backend.start()
            assert cause in caught.value.likely_cause

    run(main)


def test_a_server_that_never_becomes_ready_fails_the_start_in_time():
    clock = FakeClock()

    async def ask(server):
        backend = get_backend(
            "openai_http", url=server.url, model="scripted", clock=clock, options={"start_timeout_s": 30.0}
        )
        with pytest.raises(StartFailed, match="was not ready within 30 s") as caught:
            await backend.start()
        assert caught.value.likely_cause == "HTTP 503"
        assert clock.now() == pytest.approx(30.0, abs=0.5)

    async def main():
        async with ScriptedServer(clock=clock) as server:
            server.health_status = 503
            await clock.run(ask(server))

    run(main)


def test_the_key_and_the_extra_headers_and_fields_go_with_every_request():
    options = {"api_key": "k", "extra_headers": {"x-tenant": "t"}, "extra_body": {"stream_interval": 2}}

    async def main():
        async with serving(api_key="k", options=options) as (server, backend):
            [chunk async for chunk in backend.generate(request())]
            sent = server.generations[0]
            assert sent.headers["authorization"] == "Bearer k"
            assert sent.headers["x-tenant"] == "t"
            assert sent.headers["x-request-id"] == "r1"
            assert sent.json()["stream_interval"] == 2

    run(main)


def test_an_address_with_v1_is_the_same_address():
    async def main():
        async with (
            ScriptedServer() as server,
            get_backend("openai_http", url=server.url + "/v1/", model="scripted") as backend,
        ):
            assert [chunk.text async for chunk in backend.generate(request(max_tokens=1))] == [" the"]

    run(main)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "needs the address"),
        ({"url": "http://h", "max_num_seqs": 4}, "the server runs already"),
        ({"url": "http://h", "options": {"extra_body": {"max_tokens": 3}}}, "a request decides this itself"),
        ({"url": "http://h", "options": {"extra_headers": {"a": "b\r\nc: d"}}}, "line break"),
        ({"url": "http://h", "options": {"ca_file": "/no/such/file"}}, "cannot be read as certificates"),
        ({"url": "http://h", "options": {"api_keys": "x"}}, "Did you mean 'api_key'"),
    ],
)
def test_settings_that_cannot_work_are_config_errors(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        get_backend("openai_http", **settings)


def test_the_key_is_never_shown():

    assert "secret-value" not in repr(OpenAIHttpOptions(api_key="secret-value"))
