"""What clients do wrong: each gets its status and error body, or is cleaned up, and the others are served."""

import json
import socket
import struct

import pytest
from running_server import RunningServer, http_request, read_response
from scripted_backend import ScriptedBackend

from enginebay.gateway.bounds import Bounds


@pytest.fixture(autouse=True)
def others_are_still_served(server: RunningServer) -> None:
    yield
    status, answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
    assert (status, answer["choices"][0]["text"]) == (200, "w0 ")
    server.wait_until(lambda: server.backend.num_running == 0)
    assert server.app.served.models.backend.metrics.num_in_flight == 0


def refused(server: RunningServer, body: bytes, path: str = "/v1/completions", **headers: str) -> tuple[int, dict]:
    status, answer_headers, answer = server.exchange("POST", path, body, **headers)
    assert answer_headers["content-type"] == "application/json"
    error = json.loads(answer)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return status, error


@pytest.mark.parametrize("body", [b"", b"{", b'{"prompt": "a",}', b"[]", b'"text"', b'{"prompt":"\xff\xfe"}', b"\x00"])
def test_malformed_json_is_refused(server: RunningServer, body: bytes) -> None:
    status, error = refused(server, body)
    assert status == 400
    assert error["code"] == "invalid_request"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_temperature_that_is_no_number_is_refused_by_name(server: RunningServer, value: str) -> None:
    status, error = refused(server, b'{"prompt": "a", "temperature": %s}' % value.encode())
    assert (status, error["param"]) == (400, "temperature")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "a", "max_tokens": -5}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 10**30}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 10**6}, "max_tokens"),
        ({"prompt": "a", "priority": -(2**70)}, "priority"),
        ({"prompt": "a", "top_k": 10**30}, "top_k"),
        ({"prompt": "a", "repetition_penalty": 1e-45}, "repetition_penalty"),
        ({"prompt": "a", "logit_bias": {"5": 1e308}}, "logit_bias"),
        ({"prompt": "a", "max_tokens": "5"}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 1.5}, "max_tokens"),
        ({"prompt": "a", "temprature": 1}, "temprature"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": "a", "stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"max_tokens": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": "a", "stop": ["x"] * 17}, "stop"),
        ({"prompt": "a", "stop": [""]}, "stop"),
        ({"prompt": "a", "n": 0}, "n"),
        ({"prompt": "a", "seed": 2**70}, "seed"),
        ({"prompt": "a", "logit_bias": {"word": 1}}, "logit_bias"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
        ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"prompt": "a", "structured_outputs": {"regex": "a+"}}, "structured_outputs"),
        ({"prompt": "a", "request_id": "a\r\nset-cookie: b"}, "request_id"),
        ({"prompt": "a", "stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"prompt": "a", "stream_interval": 0}, "stream_interval"),
    ],
)
def test_a_wrong_completion_field_is_refused_by_name(server: RunningServer, fields: dict, param: str) -> None:
    status, error = refused(server, json.dumps(fields).encode())
    assert (status, error["param"]) == (400, param)


TOOL = {"type": "function", "function": {"name": "f"}}
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "messages[0].colour"),
        ({"messages": [USER], "tools": []}, "tools"),
        ({"messages": [USER], "tools": [{"type": "function"}]}, "tools[0].function"),
        ({"messages": [USER], "tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"messages": [USER], "tools": [{**TOOL, "x": 1}]}, "tools[0].x"),
        ({"messages": [USER], "tools": [TOOL, {**TOOL, "type": "custom"}]}, "tools[1].type"),
        ({"messages": [USER], "tools": [{**TOOL, "function": {"name": "f", "x": 1}}]}, "tools[0].function.x"),
        ({"messages": [USER], "tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{**TOOL, "id": "1", "x": 1}]}]},
            "messages[1].tool_calls[0].x",
        ),
        (
            {"messages": [USER], "tools": [TOOL], "tool_choice": {**TOOL, "function": {"name": "g"}}},
            "tool_choice.function.name",
        ),
        (
            {"messages": [USER], "response_format": {"type": "json_schema", "json_schema": {"name": "a"}, "x": 1}},
            "response_format.x",
        ),
        (
            {"messages": [USER], "response_format": {"type": "json_schema", "json_schema": {"name": "a", "x": 1}}},
            "response_format.json_schema.x",
        ),
        ({"messages": [USER], "tool_choice": "required"}, "tool_choice"),
        ({"messages": [USER], "top_logprobs": 2}, "top_logprobs"),
        ({"messages": [USER], "max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
        ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
        ({"messages": [USER], "echo": True}, "echo"),
        ({"messages": [USER], "reasoning_effort": "high"}, "reasoning_effort"),
        ({"messages": [USER], "continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"messages": [{"role": "user", "content": "a " * 80}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
            "image_url",
        ),
    ],
)
def test_a_wrong_chat_field_is_refused_by_name(server: RunningServer, fields: dict, param: str) -> None:
    status, error = refused(server, json.dumps(fields).encode(), "/v1/chat/completions")
    assert (status, error["param"]) == (400, param)


def test_json_nested_too_deeply_is_refused(server: RunningServer) -> None:
    deep = b'{"messages": [], "tools": [{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}"
    assert refused(server, deep, "/v1/chat/completions")[0] == 400


def test_a_body_of_two_megabytes_gets_413_and_the_connection_goes_on(server: RunningServer) -> None:
    body = json.dumps({"prompt": "a" * 2_000_000}).encode()
    with server.connection() as connection:
        connection.sendall(http_request("POST", "/v1/completions", body))
        status, _, answer = read_response(connection)
        assert status == 413
        assert json.loads(answer)["error"]["code"] == "body_too_large"
        connection.sendall(http_request("GET", "/health"))
        assert read_response(connection)[0] == 200


def test_a_chunked_body_is_bounded_too(server: RunningServer) -> None:
    with server.connection() as connection:
        head = "POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"
        connection.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        piece = b"10000\r\n" + b"a" * 65536 + b"\r\n"
        for _ in range(32):
            connection.sendall(piece)
        connection.sendall(b"0\r\n\r\n")
        assert read_response(connection)[0] == 413


def test_a_body_of_another_type_is_refused(server: RunningServer) -> None:
    status, error = refused(server, b'{"prompt": "a"}', content_type="text/plain")
    assert (status, error["code"]) == (415, "unsupported_content_type")
    assert "send the body with content-type application/json" in error["message"]


def test_unknown_paths_and_methods_get_an_error_of_the_same_form(server: RunningServer) -> None:
    status, error = refused(server, b"{}", "/v1/embeddings")
    assert (status, error["code"]) == (404, "not_found")
    status, headers, body = server.exchange("GET", "/v1/completions")
    assert (status, headers["allow"]) == (405, "POST")
    assert json.loads(body)["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_vanishes_before_the_first_token_frees_the_engine(
    server: RunningServer, streams: bool, n: int
) -> None:
    num_cancelled = server.backend.num_cancelled
    body = json.dumps({"prompt": "hang", "stream": streams, "n": n}).encode()
    with server.connection() as connection:
        connection.sendall(http_request("POST", "/v1/completions", body))
        server.wait_until(lambda: server.backend.num_running == n)
        reset(connection)
    server.wait_until(lambda: server.backend.num_running == 0)
    assert server.backend.num_cancelled == num_cancelled + n


@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_vanishes_in_the_middle_frees_the_engine(server: RunningServer, n: int) -> None:
    num_cancelled = server.backend.num_cancelled
    body = json.dumps({"prompt": "stall", "stream": True, "n": n}).encode()
    with server.connection() as connection:
        connection.sendall(http_request("POST", "/v1/completions", body))
        received = b""
        while received.count(b'"text"') < n:
            received += connection.recv(65536)
    server.wait_until(lambda: server.backend.num_running == 0)
    assert server.backend.num_cancelled == num_cancelled + n
    assert server.app.served.models.backend.metrics.num_requests_by_outcome["cancelled"] >= n


def test_a_client_that_vanishes_while_it_sends_its_body_leaves_nothing(server: RunningServer) -> None:
    logged = len(server.log.getvalue())
    with server.connection() as connection:
        connection.sendall(http_request("POST", "/v1/completions", b'{"prompt": "a"}')[:-3])
        reset(connection)
    while "client gone" not in server.log.getvalue()[logged:]:
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200
    assert server.app.served.models.backend.metrics.num_in_flight == 0
    assert server.backend.num_running == 0


def test_a_slow_reader_holds_the_engine_back_and_is_cut_off() -> None:
    with RunningServer(ScriptedBackend, bounds=Bounds(write_timeout_s=0.2)) as server:
        body = json.dumps({"prompt": "flood", "max_tokens": 60, "stream": True, "ignore_eos": True}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(http_request("POST", "/v1/completions", body))
            server.wait_until(lambda: server.backend.num_running == 1)
            server.wait_until(lambda: server.backend.num_running == 0)
            assert server.backend.num_cancelled + server.backend.num_dropped == 1
            assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200
            received = b""
            while piece := connection.recv(65536):
                received += piece
            assert received.startswith(b"HTTP/1.1 200 OK")
            assert b"[DONE]" not in received
        assert server.app.served.models.backend.metrics.num_in_flight == 0
        assert "reads too slowly" in server.log.getvalue()


def test_the_body_of_a_client_that_never_sends_it_times_out() -> None:
    with RunningServer(ScriptedBackend, bounds=Bounds(read_timeout_s=0.1)) as server, server.connection() as connection:
        connection.sendall(http_request("POST", "/v1/completions", b'{"prompt": "a"}')[:-3])
        status, _, body = read_response(connection)
        assert status == 408
        assert json.loads(body)["error"]["code"] == "deadline_exceeded"


def test_nothing_of_a_prompt_or_an_answer_is_logged(server: RunningServer) -> None:
    secret = "correct-horse-battery"
    for fields in ({"prompt": f"crash {secret}"}, {"prompt": f"a {secret}", "foo": 1}, {"prompt": f"break {secret}"}):
        server.post("/v1/completions", fields)
    assert secret not in server.log.getvalue()
    assert '"code": "backend_error"' in server.log.getvalue()


def test_the_request_id_comes_back_unless_it_is_unsound(server: RunningServer) -> None:
    body = b'{"prompt": "a", "max_tokens": 1}'
    _, headers, answer = server.exchange("POST", "/v1/completions", body, x_request_id="trace-17")
    assert headers["x-request-id"] == "trace-17"
    assert json.loads(answer)["id"] == "cmpl-trace-17"
    assert server.backend.requests[-1].request_id.startswith("cmpl-trace-17-")
    _, headers, _ = server.exchange("POST", "/v1/completions", body, x_request_id="a b\tc")
    assert headers["x-request-id"] not in ("", "a b\tc")


def reset(connection: socket.socket) -> None:
    """Close with a reset, as a process that is killed under load does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_of_a_name_that_stands_twice_the_last_counts(server: RunningServer) -> None:
    body = b'{"prompt": "a b", "max_tokens": 1, "max_tokens": 3}'
    status, _, answer = server.exchange("POST", "/v1/completions", body)
    assert (status, json.loads(answer)["usage"]["completion_tokens"]) == (200, 3)
