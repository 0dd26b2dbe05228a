"""What no engine answers with 200 is refused at once, and never costs anybody else an answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from enginebay.clock import MonotonicClock
from enginebay.errors import BackendUnavailable
from enginebay.testing.simulators import Simulator
from enginebay.testing.simulators.request import SimulatedRequest, SimulatedSampling
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpTimeouts

JSON = {"content-type": "application/json"}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
DEEP = b'{"prompt": ' + b"[" * 3000 + b"]" * 3000 + b', "max_tokens": 2}'
GOOD: dict[str, tuple[str, object]] = {
    "vllm": (COMPLETIONS, {"prompt": "a", "max_tokens": 2}),
    "sglang": ("/generate", {"text": "a", "sampling_params": {"max_new_tokens": 2}}),
    "tensorrt_llm": (COMPLETIONS, {"model": "simulated", "prompt": "a", "max_tokens": 2}),
    "tgi": ("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 2}}),
}


def client_of(simulator: Simulator) -> HttpClient:
    return HttpClient(simulator.url, clock=MonotonicClock(), timeouts=HttpTimeouts(first_byte_s=5, idle_s=5))


async def post(client: HttpClient, path: str, body: object) -> int:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (await client.request("POST", path, body=data, headers=JSON)).status


@pytest.mark.parametrize(
    ("kind", "path", "body", "status"),
    [
        ("vllm", COMPLETIONS, {"prompt": [], "max_tokens": 4}, 400),
        ("vllm", COMPLETIONS, {"prompt": [1, "a"], "max_tokens": 4}, 400),
        ("vllm", COMPLETIONS, {"prompt": "a", "max_tokens": 4, "n": -1}, 400),
        ("vllm", COMPLETIONS, {"prompt": "a", "max_tokens": 4, "n": 0}, 400),
        ("vllm", CHATS, {**CHAT, "max_completion_tokens": -1}, 400),
        ("vllm", COMPLETIONS, DEEP, 400),
        ("sglang", "/generate", {"input_ids": [], "sampling_params": {"max_new_tokens": 2}}, 400),
        ("sglang", "/generate", {"text": "a", "sampling_params": {"max_new_tokens": -2}}, 400),
        ("sglang", COMPLETIONS, {"prompt": [], "max_tokens": 4}, 400),
        ("sglang", COMPLETIONS, {"prompt": [1, "a"], "max_tokens": 4}, 400),
        ("sglang", COMPLETIONS, {"prompt": "a", "max_tokens": 4, "n": -1}, 400),
        ("sglang", CHATS, {**CHAT, "max_tokens": -1}, 400),
        ("sglang", COMPLETIONS, DEEP, 400),
        ("tensorrt_llm", COMPLETIONS, {"model": "simulated", "prompt": [], "max_tokens": 2}, 400),
        ("tensorrt_llm", COMPLETIONS, {"model": "simulated", "prompt": [1, "a"], "max_tokens": 2}, 400),
        ("tensorrt_llm", COMPLETIONS, {"model": "simulated", "prompt": "a", "max_tokens": 2, "n": -1}, 400),
        ("tensorrt_llm", COMPLETIONS, DEEP, 400),
        ("tgi", "/generate", {"inputs": "a", "parameters": {"max_new_tokens": -1}}, 422),
        ("tgi", COMPLETIONS, {"prompt": [], "max_tokens": 2}, 422),
        ("tgi", CHATS, {**CHAT, "max_tokens": -1}, 422),
        ("tgi", COMPLETIONS, DEEP, 422),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_and_the_next_is_answered(
    kind: str, path: str, body: Any, status: int
) -> None:
    async def main() -> None:
        async with Simulator(kind) as simulator:
            client = client_of(simulator)
            assert await post(client, path, body) == status
            assert await post(client, *GOOD[kind]) == 200
            assert simulator.engine.num_unfinished == 0
            await client.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/v1/completions", "/health"])
@pytest.mark.parametrize("kind", ["vllm", "sglang", "tensorrt_llm"])
def test_a_route_of_fastapi_asked_with_another_method_is_405(kind: str, path: str) -> None:
    async def main() -> None:
        async with Simulator(kind) as simulator:
            client = client_of(simulator)
            method, allowed = ("GET", "POST") if path == "/v1/completions" else ("PUT", "GET")
            answer = await client.request(method, path)
            assert (answer.status, answer.headers["allow"]) == (405, allowed)
            assert simulator.faults.num_decided == 0, "no generation"
            await client.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "status"), [("vllm", b"405"), ("tgi", b"200")])
def test_the_answer_to_head_has_no_body(kind: str, status: bytes) -> None:
    async def main() -> None:
        async with Simulator(kind) as simulator:
            reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
            writer.write(b"HEAD /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 " + status)
            assert int(head.lower().partition(b"content-length: ")[2].split()[0]) > 0
            assert body == b""
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "problem"),
    [((), 2, "the prompt is empty"), ((300,), 0, "max_tokens is 0"), ((300,), 5000, "exceed max_model_len")],
)
def test_an_engine_takes_nothing_that_its_wire_should_have_refused(prompt: Any, max_tokens: int, problem: str) -> None:
    async def main() -> None:
        async with Simulator("vllm") as simulator:
            request = SimulatedRequest(prompt, SimulatedSampling(max_tokens=max_tokens), listener=None)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match=problem):
                simulator.engine.submit(request)
            assert simulator.engine.num_unfinished == 0

    asyncio.run(main())


def test_a_wire_that_breaks_over_a_request_answers_500_and_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
        async with Simulator("vllm") as simulator:
            monkeypatch.setattr(simulator.wire, "handle", lambda request, exchange: 1 // 0)
            client = client_of(simulator)
            answer = await client.request("GET", "/health")
            assert answer.status == 500
            assert b"ZeroDivisionError" in answer.body
            await client.aclose()

    asyncio.run(main())
    assert reported == ["the simulator broke over GET /health"]


def test_a_server_whose_engine_broke_closes_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[BaseException] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        simulator = Simulator("vllm")
        await simulator.start()
        monkeypatch.setattr(simulator.engine, "_schedule", lambda: 1 // 0)
        client = client_of(simulator)
        for _ in range(2):  # the one that broke it, and the next
            with pytest.raises(BackendUnavailable):
                await post(client, *GOOD["vllm"])
        await client.aclose()
        with pytest.raises(ZeroDivisionError):
            await simulator.aclose()

    asyncio.run(main())
    assert [type(error) for error in reported] == [ZeroDivisionError]
