"""Without keys only this machine is served: whole gateways, under whatever server says who asks."""

from __future__ import annotations

import asyncio
import http.client
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_kind import FakeKind, install_fake_kind
from gateway_child import gateway_child, simulator_child

from enginebay.config.loader import parse_config
from enginebay.gateway.app import Gateway
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.logs import make_logger

CONFIG = """
version: 1
backends: {engine: {kind: KIND}}
server: {host: 127.0.0.1, port: 0}
gateway: {models: {tiny: {versions: {v1: [{backend: engine}]}}}}
"""


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    return install_fake_kind(monkeypatch)


async def status_for(app: Gateway, client: object, *headers: tuple[bytes, bytes]) -> int:
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    scope = {"type": "http", "method": "GET", "path": "/v1/models", "query_string": b"", "headers": [*headers]}
    await app(scope if client == "left out" else {**scope, "client": client}, receive, send)
    return statuses[0]


@pytest.mark.parametrize(
    ("client", "status"),
    [
        (("127.0.0.1", 50_000), 200),
        (["127.0.0.1", 50_000], 200),
        (("::1", 50_000, 0, 0), 200),
        (("::ffff:127.0.0.1", 50_000), 200),
        (("10.0.0.7", 50_000), 403),
        (("::ffff:10.0.0.7", 50_000), 403),
        (("/run/gateway.sock", None), 403),
        (("", None), 403),
        ((None, None), 403),
        (None, 403),
        ([], 403),
        ("left out", 403),
    ],
)
def test_every_form_in_which_a_server_names_the_client_is_understood(
    kind: FakeKind, client: object, status: int
) -> None:
    async def main() -> int:
        app = app_from_config(parse_config(CONFIG.replace("KIND", "fake")), log=make_logger(level="critical"))
        return await status_for(app, client)

    assert asyncio.run(main()) == status


@pytest.mark.parametrize("allowed", ["127.0.0.1", "*"])
def test_no_header_makes_a_caller_local_whatever_proxies_the_server_trusts(tmp_path: Path, allowed: str) -> None:
    environment = {"FORWARDED_ALLOW_IPS": allowed}

    def status(**headers: str) -> tuple[int, str]:
        with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)) as connection:
            connection.request("GET", "/v1/models", headers={name.replace("_", "-"): v for name, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, str(json.loads(answer.read()).get("error", {}).get("message", ""))

    with simulator_child("--profile", "instant") as (_, url):
        config = CONFIG.replace("KIND", f"openai_http, model: tiny, url: '{url}'")
        with gateway_child(config, tmp_path, environment=environment) as gateway:
            assert status() == (200, "")
            for headers in (
                {"x_forwarded_for": "127.0.0.1"},
                {"x_forwarded_for": "203.0.113.9"},
                {"x_forwarded_for": "203.0.113.9, 127.0.0.1", "x_forwarded_proto": "https"},
                {"forwarded": "for=127.0.0.1"},
                {"x_real_ip": "127.0.0.1"},
            ):
                refused, reason = status(**headers)
                assert refused == 403, headers
                assert "this gateway has no API keys" in reason
