"""The OpenAPI document says what the server does, and the server does what the document says."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from running_server import RunningServer
from scripted_backend import ScriptedBackend

from enginebay.gateway.app import ONE_MODEL, ROUTES
from enginebay.gateway.openapi.document import document
from enginebay.wire.field_meanings import MEANINGS
from enginebay.wire.openai_schemas import components

CHAT = {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def api(server: RunningServer) -> dict[str, Any]:
    return server.get("/openapi.json")[1]


def test_every_route_and_method_stands_in_the_document(api: dict[str, Any]) -> None:
    documented = {path: {method.upper() for method in methods} for path, methods in api["paths"].items()}
    served = {path: {*route.methods} - {"HEAD"} for path, route in ROUTES.items()}
    served["/v1/models/{model}"] = {*ONE_MODEL.methods} - {"HEAD"}
    del served["/openapi.json"], served["/docs"]
    assert documented == served


def test_the_document_is_the_same_for_everyone_and_its_schemas_are_sound(api: dict[str, Any]) -> None:
    assert api == json.loads(json.dumps(document()))
    for schema in components().values():
        Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere(api: dict[str, Any]) -> None:
    found = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(api)))
    assert found <= set(api["components"]["schemas"])


def validator(api: dict[str, Any], name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": api["components"]})


@pytest.mark.parametrize(
    ("path", "fields", "answer"),
    [
        ("/v1/chat/completions", {**CHAT, "n": 2}, "ChatResponse"),
        ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}, "ChatResponse"),
        ("/v1/chat/completions", {**CHAT, "return_token_ids": True, "prompt_logprobs": 1}, "ChatResponse"),
        ("/v1/completions", {"prompt": ["a b", "c"], "max_tokens": 2}, "CompletionResponse"),
        ("/v1/completions", {"prompt": "a b", "logprobs": 1, "echo": True}, "CompletionResponse"),
        ("/v1/completions", {"prompt": "a b", "max_tokens": -1}, "ErrorBody"),
        ("/v1/completions", {"prompt": "a b", "surprise": 1}, "ErrorBody"),
        ("/v1/chat/completions", {**CHAT, "model": "no such"}, "ErrorBody"),
    ],
)
def test_answers_have_the_documented_form(
    server: RunningServer, api: dict[str, Any], path: str, fields: dict[str, Any], answer: str
) -> None:
    status, body = server.post(path, fields)
    assert (status == 200) == (answer != "ErrorBody")
    validator(api, answer).validate(body)
    assert str(status) in api["paths"][path]["post"]["responses"]


def test_the_models_have_the_documented_form(server: RunningServer, api: dict[str, Any]) -> None:
    validator(api, "ModelList").validate(server.get("/v1/models")[1])
    validator(api, "ModelEntry").validate(server.get("/v1/models/tiny")[1])


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 101}, {"top_p": 0}, {"seed": 2**63}, {"n": 0}, {"stop": ""}, {"stop": ["a"] * 17},
        {"logit_bias": {"x": 1}}, {"logit_bias": {"1": 101}}, {"stop_token_ids": [-1]}, {"surprise": 1},
        {"stream_interval": 0, "stream": True}, {"max_tokens": "7"}, {"repetition_penalty": 0},
    ],
)  # fmt: skip
def test_what_the_schema_forbids_the_server_refuses_by_name(
    server: RunningServer, api: dict[str, Any], fields: dict[str, Any]
) -> None:
    body = {"prompt": "a b", **fields}
    assert not validator(api, "CompletionBody").is_valid(body)
    status, answer = server.post("/v1/completions", body)
    assert status == 400
    assert answer["error"]["param"].startswith(next(iter(fields)))


def test_the_docs_page_needs_nothing_from_elsewhere(server: RunningServer, api: dict[str, Any]) -> None:
    status, headers, body = server.exchange("GET", "/docs")
    page = body.decode()
    assert status == 200
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert not re.findall(r"<script|https?://|<link|<img|@import|url\(", page)
    for path in api["paths"]:
        assert f"<code>{path}</code>" in page
    for name in api["components"]["schemas"]:
        assert f"id='{name}'" in page


def test_every_field_of_a_request_has_a_meaning_and_every_meaning_a_field(api: dict[str, Any]) -> None:
    names = ("ChatBody", "CompletionBody", "TokenizeBody", "GenerateBody")
    bodies = [api["components"]["schemas"][name] for name in names]
    fields = {name: field for body in bodies for name, field in body["properties"].items()}
    assert all(field["description"].endswith(".") for field in fields.values())
    assert fields.keys() == MEANINGS.keys()


def test_the_docs_page_shows_each_body_by_an_example_that_the_server_takes(server: RunningServer) -> None:
    page = html.unescape(server.exchange("GET", "/docs")[2].decode())
    examples = re.findall(r"curl \$SERVER(/\S+) -H 'content-type: application/json' \\\n  -d '(.*)'</pre>", page)
    assert {path for path, _ in examples} == {"/v1/chat/completions", "/v1/completions", "/tokenize", "/generate"}
    for path, body in examples:
        fields = {**json.loads(body), "model": "tiny"}
        fields |= {"max_tokens": 3} if "max_tokens" in fields else {}  # this engine's context is short
        assert server.post(path, fields)[0] == 200, path
    assert "`" not in page


@pytest.fixture
def own_server() -> Iterator[RunningServer]:
    with RunningServer(ScriptedBackend) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_schemathesis_finds_nothing(own_server: RunningServer, tmp_path: Path) -> None:
    """All its checks but one: what a schema allows may still be more than this backend can do, which is a 400."""
    pytest.importorskip("schemathesis")
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{own_server.url}/openapi.json", "--seed=1", "--no-color",
        "--max-examples=10", "--checks=all", "--exclude-checks=positive_data_acceptance",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "11 selected / 11 total" in done.stdout
