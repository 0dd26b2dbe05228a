"""Part 10: `/generate`, `/health` and `/metrics` as the lesson's own server has them."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request

import pytest

pytestmark = pytest.mark.weights


def post(url: str, body: object | None = None) -> object:
    data = b"" if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_generate_takes_a_json_body(server_url: str) -> None:
    answer = post(f"{server_url}/generate", {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0})
    assert set(answer) == {"text"}
    assert "Paris" in answer["text"]


def test_generate_takes_query_parameters(server_url: str) -> None:
    query = urllib.parse.urlencode({"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0})
    assert "Paris" in post(f"{server_url}/generate?{query}")["text"]


def test_a_fault_of_the_caller_is_told_in_detail(server_url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{server_url}/generate", {"prompt": "x", "max_tokens": -1})
    with refused.value as answer:
        assert answer.status == 400
        assert "max_tokens" in json.load(answer)["detail"]


def test_health_says_healthy(server_url: str) -> None:
    with urllib.request.urlopen(f"{server_url}/health", timeout=10) as answer:
        assert json.load(answer) == {"status": "healthy"}
