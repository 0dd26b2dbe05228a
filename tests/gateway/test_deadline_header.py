"""`x-enginebay-deadline-ms`: read, kept, and refused by its name where it cannot be."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
from running_server import RunningServer
from scripted_backend import ALL_BUT_STRUCTURE, ScriptedBackend

from enginebay.errors import DeadlineExceeded, InvalidRequest
from enginebay.types import Feature, GenerationChunk, GenerationRequest
from enginebay.wire.deadline_header import DEADLINE_HEADER, MAX_DEADLINE_MS, time_left_s
from enginebay.wire.openai_errors import error_body, error_from_response

BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a b", "max_tokens": 4},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a b"}], "max_tokens": 4},
    "/generate": {"prompt": "a b", "max_tokens": 4},
}


def send(server: RunningServer, path: str, *values: str, **fields: object) -> tuple[int, dict[str, Any]]:
    names = (DEADLINE_HEADER, DEADLINE_HEADER.upper())  # one name to the server
    return server.post(path, {**BODIES[path], **fields}, **dict(zip(names, values, strict=False)))


@pytest.mark.parametrize("path", sorted(BODIES))
def test_the_backend_is_given_the_instant(server: RunningServer, path: str) -> None:
    before = time.monotonic()
    assert send(server, path, "90000")[0] == 200
    [deadline_at] = {request.deadline_at for request in server.backend.requests[-1:]}
    assert before + 90 <= deadline_at <= time.monotonic() + 90
    assert send(server, path)[0] == 200
    assert server.backend.requests[-1].deadline_at is None


def test_all_choices_have_one_deadline(server: RunningServer) -> None:
    assert send(server, "/v1/completions", "90000", n=3, seed=1)[0] == 200
    assert len({request.deadline_at for request in server.backend.requests[-3:]}) == 1


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "1e3", "soon", "", "١٢", str(MAX_DEADLINE_MS + 1), "9" * 5000])
def test_what_is_no_number_of_milliseconds_is_refused_by_the_headers_name(server: RunningServer, value: str) -> None:
    with pytest.raises(InvalidRequest, match="whole number from 1 to 86400000"):
        time_left_s([value.encode()])
    if value.isascii() and value:
        status, answer = send(server, "/v1/completions", value)
        assert (status, answer["error"]["param"]) == (400, DEADLINE_HEADER)


def test_a_header_that_is_given_twice_is_refused(server: RunningServer) -> None:
    status, answer = send(server, "/v1/completions", "5000", "6000")
    assert (status, answer["error"]["param"]) == (400, DEADLINE_HEADER)
    assert "2 times" in answer["error"]["message"]


def test_milliseconds_are_read_to_the_bounds() -> None:
    assert time_left_s([]) is None
    assert time_left_s([b"1"]) == 0.001
    assert time_left_s([b" 1500 "]) == 1.5
    assert time_left_s([str(MAX_DEADLINE_MS).encode()]) == 86400.0


@pytest.mark.parametrize("path", sorted(BODIES))
def test_a_backend_without_deadlines_refuses_the_header_by_name(path: str) -> None:
    with RunningServer(lambda: ScriptedBackend(features=ALL_BUT_STRUCTURE - {Feature.DEADLINE})) as server:
        status, answer = send(server, path, "90000")
        assert status == 400
        assert "does not support 'x-enginebay-deadline-ms'" in json.dumps(answer)
        assert server.backend.requests == []
        assert send(server, path)[0] == 200


class LateBackend(ScriptedBackend):
    """Its deadlines pass after the first token."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:  # type: ignore[override]
        async for chunk in super().generate(request):
            yield chunk
            raise DeadlineExceeded("the deadline passed", field="deadline_at")


def test_a_stream_that_runs_past_its_deadline_ends_with_an_event_and_no_fault_in_the_log() -> None:
    with RunningServer(LateBackend) as server:
        body = json.dumps({**BODIES["/v1/completions"], "stream": True}).encode()
        status, _, answer = server.exchange("POST", "/v1/completions", body, x_enginebay_deadline_ms="90000")
        log = [json.loads(line) for line in server.log.getvalue().splitlines()]
    assert status == 200
    assert b'"code":"deadline_exceeded"' in answer
    assert answer.rstrip(b"\r\n0").endswith(b"data: [DONE]")
    [entry] = [entry for entry in log if entry.get("code") == "deadline_exceeded"]
    assert (entry["event"], entry["level"]) == ("stream ended early", "info")


def test_an_error_of_the_engine_names_the_header_and_comes_back_as_our_own_field() -> None:
    body = error_body(DeadlineExceeded("it cannot be met", field="deadline_at"))
    assert json.loads(body)["error"]["param"] == DEADLINE_HEADER
    error = error_from_response(408, body, backend="remote")
    assert isinstance(error, DeadlineExceeded)
    assert error.field == "deadline_at"


def test_the_official_client_can_give_one(server: RunningServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        before = time.monotonic()
        client.completions.create(model="tiny", prompt="a b", max_tokens=4, extra_headers={DEADLINE_HEADER: "2000"})
    assert before + 2 <= server.backend.requests[-1].deadline_at <= time.monotonic() + 2
