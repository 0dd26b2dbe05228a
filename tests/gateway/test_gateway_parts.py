"""Capture and log behind the gateway of a config: one line for each call, whichever replica answered."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from asgi_client import living, post
from fake_kind import FakeKind, install_fake_kind
from pydantic import ValidationError

from enginebay.config.gateway import GatewayConfig
from enginebay.config.loader import parse_config
from enginebay.gateway.capture import TrafficCapture
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.logs import make_logger
from enginebay.testing.fake_clock import FakeClock

CONFIG = """
version: 1
backends: {one: {kind: fake, replicas: 2}}
gateway:
  models: {assistant: {versions: {v1: [{backend: one}]}}}
  routing: {policy: round_robin}
  logs: {calls: true}
"""
PRICED = {"models": {"assistant": {"versions": {"v1": [{"backend": "one"}]}}}}


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    return install_fake_kind(monkeypatch)


def test_traffic_of_all_replicas_is_captured_and_each_call_is_logged_once(kind: FakeKind, tmp_path: Path) -> None:
    stream, trace = io.StringIO(), tmp_path / "traffic.jsonl"

    async def main() -> None:
        clock = FakeClock(100.0)
        log = make_logger(stream)
        app = app_from_config(parse_config(CONFIG), log=log, capture=TrafficCapture(trace, log=log), clock=clock)

        async def live() -> None:
            async with living(app):
                for num_tokens in (2, 3, 4, 5):
                    asked = {"model": "assistant", "prompt": "secret words", "max_tokens": num_tokens}
                    await post(app, "/v1/completions", asked).task

        await clock.run(live())

    asyncio.run(main())
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [(line["input_length"], line["output_length"]) for line in lines] == [(2, 2), (2, 3), (2, 4), (2, 5)]
    calls = [line for line in map(json.loads, stream.getvalue().splitlines()) if line["event"] == "call"]
    assert [call["num_output_tokens"] for call in calls] == [2, 3, 4, 5]
    assert {replica for call in calls for replica in call["replicas"]} == {"one-0", "one-1"}
    assert "secret" not in stream.getvalue() + trace.read_text()


def test_a_price_of_no_model_is_refused_with_the_models_there_are() -> None:
    GatewayConfig.model_validate({**PRICED, "ledger": {"prices": {"assistant": {"prompt": 1.0, "output": 1.0}}}})
    with pytest.raises(ValidationError, match=r"ledger\.prices\.asistant is the price of no model; models: assistant"):
        GatewayConfig.model_validate({**PRICED, "ledger": {"prices": {"asistant": {"prompt": 1.0, "output": 1.0}}}})


@pytest.mark.parametrize(
    ("price", "problem"),
    [
        ({"prompt": 1.0}, "give `prompt` and `output`"),
        ({}, "give `prompt` and `output`"),
        ({"hour": 2.0}, "belong together"),
        ({"hour": 2.0, "output_tokens_per_s": 10.0, "output": 1.0}, "not both"),
        ({"prompt": -1.0, "output": 1.0}, "greater than or equal to 0"),
    ],
)
def test_a_price_is_by_the_token_or_by_the_hour(price: dict[str, float], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        GatewayConfig.model_validate({**PRICED, "ledger": {"prices": {"assistant": price}}})
