"""`enginebay.openai_client`: the official client, pointed at what a config serves."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import openai
import pytest
from running_server import RunningServer

import enginebay
from enginebay.config.loader import parse_config
from enginebay.errors import BackendUnavailable, ConfigError
from enginebay.official_client import served_model
from enginebay.testing.scripted_server import ScriptedServer

FAR = "version: 1\nbackend: far\nbackends:\n  far: {{kind: openai_http, url: '{url}', options: {options}}}\n"


def serving_config(port: int) -> str:
    return f"version: 1\nbackend: reference\nserver: {{host: 0.0.0.0, port: {port}}}\n"


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_a_served_config_is_reached_where_serve_listens(server: RunningServer, tmp_path: Path):
    path = tmp_path / "serve.yaml"
    path.write_text(serving_config(server.port))
    with enginebay.openai_client(path) as client:
        assert type(client) is openai.OpenAI
        model = served_model(client)
        answer = client.completions.create(model=model, prompt="one two", max_tokens=2)
    assert (model, answer.choices[0].text) == ("tiny", "w0 w1 ")


def test_the_async_client_reaches_it_too(server: RunningServer):
    async def main() -> None:
        async with await enginebay.async_openai_client(parse_config(serving_config(server.port))) as client:
            assert type(client) is openai.AsyncOpenAI
            answer = await client.completions.create(model="tiny", prompt="one two", max_tokens=2)
            assert answer.choices[0].text == "w0 w1 "

    asyncio.run(main())


def test_where_nothing_listens_the_command_that_serves_is_named(tmp_path: Path, free_port: int):
    path = tmp_path / "serve.yaml"
    path.write_text(serving_config(free_port))
    with pytest.raises(BackendUnavailable) as caught:
        enginebay.openai_client(str(path))
    assert f"nothing listens at http://127.0.0.1:{free_port}" in str(caught.value)
    assert str(caught.value).endswith(f"run: enginebay serve {path}")
    with pytest.raises(BackendUnavailable, match=r"enginebay serve .* --backend reference$"):
        enginebay.openai_client(path, "reference")


def test_an_external_server_that_is_not_there_is_told_as_such(free_port: int):
    config = parse_config(FAR.format(url=f"http://127.0.0.1:{free_port}/v1", options="{}"))
    with pytest.raises(BackendUnavailable, match="start the server, or correct the entry's url"):
        enginebay.openai_client(config)


def test_a_port_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match=r"server\.port"):
        enginebay.openai_client(parse_config(serving_config(0)))


def test_an_external_entry_is_reached_at_its_url_with_its_key_and_no_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    async def main(options: str, expected: str) -> None:
        async with ScriptedServer() as server:
            config = parse_config(FAR.format(url=server.url, options=options))
            client = await asyncio.to_thread(enginebay.openai_client, config)
            with client:
                assert await asyncio.to_thread(served_model, client) == "scripted"
            headers = server.received[-1].headers
            assert headers["authorization"] == f"Bearer {expected}"
            assert not any("organization" in name or "org-1" in value for name, value in headers.items())
            assert headers.get("x-team") == ("blue" if "blue" in options else None)

    asyncio.run(main("{api_key: k-1, extra_headers: {x-team: blue}}", "k-1"))
    asyncio.run(main("{}", "none"))


def test_a_started_backend_gives_the_client_of_its_server():
    async def main() -> None:
        async with (
            ScriptedServer(model="m") as server,
            enginebay.get_backend("openai_http", url=server.url, model="m") as backend,
            await enginebay.async_openai_client(backend) as client,
        ):
            answer = await client.completions.create(model=backend.info.model, prompt="a", max_tokens=2)
            assert answer.model == "m"

    asyncio.run(main())


def test_a_backend_in_our_own_process_has_no_server():
    with pytest.raises(ConfigError, match="has no server of its own: run enginebay serve"):
        enginebay.openai_client(enginebay.get_backend("reference"))


def test_without_the_extra_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch, server: RunningServer):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install \"enginebay\[openai\]\""):
        enginebay.openai_client(parse_config(serving_config(server.port)))


def test_a_server_that_speaks_another_api_has_no_client(free_port: int):
    pytest.importorskip("enginebay_tensorrt_llm")
    entry = f"{{kind: tensorrt_llm, mode: external, url: 'http://127.0.0.1:{free_port}', options: {{api: triton}}}}"
    with pytest.raises(ConfigError, match=r"has no OpenAI API, but that of triton") as caught:
        enginebay.openai_client(parse_config(f"version: 1\nbackend: far\nbackends: {{far: {entry}}}\n"))
    assert caught.value.path == "options.api"
    backend = enginebay.get_backend(
        "tensorrt_llm", mode="external", url=f"http://127.0.0.1:{free_port}", options={"api": "triton"}
    )
    with pytest.raises(ConfigError, match="has no OpenAI API"):
        enginebay.openai_client(backend)
