"""What the pages of the gateway show is run: configs, commands, clients, hooks, policies."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pool_of_fakes import a_call, a_pool, a_request, going_on, text_of
from running_server import RunningServer
from scripted_backend import ScriptedBackend

from enginebay.cli.main import run
from enginebay.config.loader import load_config, parse_config
from enginebay.configured import config_problems
from enginebay.gateway.app import build_app
from enginebay.gateway.call import Outcome
from enginebay.gateway.routing.policy import RoutingPolicySpec
from enginebay.guard import GuardedBackend
from enginebay.testing import FakeBackend

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ("gateway", "pools", "security", "server")


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


@pytest.mark.parametrize("page", ["gateway", "pools"])
def test_the_configs_of_the_pages_are_sound(page: str, tmp_path: Path) -> None:
    [text] = blocks(page, "yaml")
    config = parse_config(text if text.startswith("version") else f"version: 1\n{text}")
    assert config.gateway is not None
    assert config_problems(config) == []


def test_the_commands_from_nothing_to_a_server_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    [config] = blocks("gateway", "yaml")
    Path("gateway.yaml").write_text(config)
    lines = re.findall(r"^enginebay (.*gateway\.yaml.*)$", "\n".join(blocks("gateway", "")), re.MULTILINE)
    commands = [shlex.split(line) for line in lines]
    assert [" ".join(words[:2]) for words in commands] == [
        "config validate", "keys create", "keys create", "serve gateway.yaml", "costs gateway.yaml"
    ]  # fmt: skip
    keys: list[str] = []
    for words in commands:
        if words[0] != "serve":
            assert run(words) == 0
            keys += re.findall(r"^eb-\S+$", capsys.readouterr().out, re.MULTILINE)
    assert len(set(keys)) == 2


def test_the_commands_name_configs_that_are_there() -> None:
    text = "\n".join(block for page in PAGES for block in blocks(page, ""))
    named = set(re.findall(r"configs/\S+\.yaml", text))
    assert "configs/gateway/one-model.yaml" in named
    for path in named:
        assert config_problems(load_config(ROOT / path, environment={})) == []


def test_the_client_of_the_page_gets_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    [client] = [block for block in blocks("gateway", "python") if "OpenAI(" in block]
    with RunningServer(ScriptedBackend) as server:
        exec(client.replace("http://127.0.0.1:8000", server.url).replace('"assistant"', '"tiny"'), {})
    assert capsys.readouterr().out.startswith("w0 w1")


def test_the_hook_of_the_page_counts_the_tokens_of_each_model() -> None:
    [block] = [block for block in blocks("gateway", "python") if "GatewayHook" in block]
    names: dict[str, Any] = {}
    exec(block, names)
    hook = names["CountPerModel"]()
    build_app(GuardedBackend(FakeBackend()), hooks=[hook])
    outcome = Outcome(
        kind="finished",
        error_code=None,
        num_prompt_tokens=3,
        num_cached_tokens=None,
        num_output_tokens=4,
        num_unbilled_tokens=None,
        ended_at=1.0,
    )
    for _ in range(2):
        hook.at_end(a_call(a_request()), outcome)
    assert hook.num_tokens == {"m": 8}


def test_the_policy_of_the_page_routes() -> None:
    [block] = blocks("pools", "python")
    names: dict[str, Any] = {}
    exec(block, names)
    spec = names["enginebay_routing_policy"]()
    assert isinstance(spec, RoutingPolicySpec)

    async def main() -> None:
        fake = await a_pool(going_on, going_on, policy=spec.create(spec.options_model(), Random(1)))
        for _ in range(3):
            assert text_of(await fake.ask(a_request())) == " t0 t1 t2 t3"
        assert [len(backend.requests) for backend in fake.fakes] == [3, 0]
        fake.demand_nothing_left()

    asyncio.run(main())


def test_every_row_of_what_is_defended_names_a_test_that_is_there() -> None:
    page = (DOCS / "security.md").read_text()
    rows = re.findall(r"^\| (?!threat|-)(.+) \|$", page.split("## What is not")[0], re.MULTILINE)
    assert len(rows) >= 18
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)`", row.split(" | ")[-1])
        assert named, row
        assert all((ROOT / path).is_file() for path in named), row
