"""The real thing: `enginebay serve configs/serve-reference.yaml` with the demo model, driven by the official client."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest

pytestmark = pytest.mark.weights
CONFIG = Path(__file__).parents[2] / "configs" / "serve-reference.yaml"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen, str]]:
    command = [sys.executable, "-m", "enginebay.cli", "serve", str(CONFIG), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready: "), line
    yield process, line.split()[1]
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def client(server: tuple[subprocess.Popen, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server[1]}/v1", api_key="EMPTY", max_retries=0, timeout=100) as client:
        yield client


def gauge(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        found = re.search(rf"^{name}{{.*}} (\S+)$", response.read().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_a_stream_is_the_same_text_as_the_whole_answer(client: openai.OpenAI) -> None:
    fields = {"model": "smollm2-135m", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**fields)
    pieces = list(client.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert "Paris" in whole.choices[0].text
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole.choices[0].text
    assert pieces[-1].usage == whole.usage


def test_a_seed_repeats_and_choices_differ(client: openai.OpenAI) -> None:
    fields = {"model": "smollm2-135m", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 1.0, "n": 2}
    first, second = (client.completions.create(**fields, seed=11) for _ in range(2))
    assert [choice.text for choice in first.choices] == [choice.text for choice in second.choices]
    assert first.choices[0].text != first.choices[1].text


def test_a_chat_stops_at_its_stop_string(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2-135m",
        messages=[{"role": "user", "content": "Count from 1 to 9, separated by commas."}],
        max_tokens=30,
        temperature=0,
        stop=[","],
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "," not in (answer.choices[0].message.content or "")


def test_echoed_token_ids_come_back_as_their_text(client: openai.OpenAI, server: tuple[subprocess.Popen, str]) -> None:
    body = json.dumps({"prompt": "The capital of France is"}).encode()
    request = urllib.request.Request(f"{server[1]}/tokenize", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        token_ids = json.loads(response.read())["tokens"]
    answer = client.completions.create(
        model="smollm2-135m", prompt=token_ids, max_tokens=1, temperature=0, echo=True, logprobs=0
    )
    assert answer.choices[0].text == "The capital of France is Paris"


def test_a_prompt_longer_than_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="smollm2-135m", prompt="word " * 3000, max_tokens=5)
    assert caught.value.code == "context_length_exceeded"


def test_a_client_that_leaves_frees_its_blocks(client: openai.OpenAI, server: tuple[subprocess.Popen, str]) -> None:
    stream = client.completions.create(
        model="smollm2-135m", prompt="Once", max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert gauge(server[1], "llm_requests_in_flight") == 1
    stream.close()
    until = time.monotonic() + 30
    while gauge(server[1], "llm_requests_in_flight") or gauge(server[1], "llm_kv_cache_usage_ratio"):
        assert time.monotonic() < until


def test_the_end_of_the_server_is_the_end_of_its_engine(server: tuple[subprocess.Popen, str]) -> None:
    process, _ = server
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_the_end_of_the_engine_is_the_end_of_its_server() -> None:
    command = [sys.executable, "-m", "enginebay.cli", "serve", str(CONFIG), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready: ")
        [engine] = psutil.Process(process.pid).children()
        engine.kill()
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "error: the backend is dead, so the server ends: the engine's process was killed by SIGKILL" in err
