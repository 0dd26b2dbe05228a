"""What comes before a body is bounded in size and in time, and a burst leaves room for probes."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from asgi_client import get, living, post, settle
from running_server import RunningServer, read_response
from scripted_backend import ScriptedBackend

from enginebay.gateway.app import build_app
from enginebay.gateway.bounds import Bounds
from enginebay.gateway.logs import make_logger
from enginebay.guard import GuardedBackend
from enginebay.testing.fake_backend import FakeBackend, Stall

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"
BODY = json.dumps({"prompt": "a b", "max_tokens": 2}).encode()


def answer_to(connection: socket.socket, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    for piece in pieces:
        connection.sendall(piece)
    return read_response(connection)


@contextmanager
def connected(bounds: Bounds) -> Iterator[tuple[RunningServer, socket.socket]]:
    with RunningServer(ScriptedBackend, bounds=bounds) as server, server.connection() as connection:
        yield server, connection


def is_closed(connection: socket.socket) -> bool:
    """Without another word; waits for it."""
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True


def test_a_head_that_never_ends_is_refused() -> None:
    with connected(Bounds(max_head_bytes=4096)) as (_, connection):
        status, headers, body = answer_to(connection, HEAD, b"x-filler: " + b"a" * 5000)
        assert (status, headers["connection"]) == (431, "close")
        assert json.loads(body)["error"]["code"] == "head_too_large"
        assert is_closed(connection)


def test_trailers_and_the_framing_of_chunks_count_as_head() -> None:
    with connected(Bounds(max_head_bytes=4096)) as (server, connection):
        body = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
        status, _, _ = answer_to(connection, HEAD + body + b"x-trailer: " + b"a" * 5000)
        assert status == 431
        assert is_closed(connection)
        assert server.backend.requests == []


def test_a_large_body_and_many_requests_on_one_connection_are_no_head() -> None:
    with connected(Bounds(max_head_bytes=4096)) as (_, connection):
        padded = BODY[:-1] + b', "user": "' + b"u" * 50_000 + b'"}'
        for body in (padded, BODY, padded, BODY):
            head = HEAD + b"content-length: %d\r\n\r\n" % len(body)
            assert answer_to(connection, head, body)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"FETCH /v1/models HTTP/1.1\r\nhost: x\r\n\r\n",
        HEAD + b"content-length: -5\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nno number\r\n",
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-request-id: a\x00b\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_the_form_of_every_other_error(sent: bytes) -> None:
    with connected(Bounds()) as (_, connection):
        status, headers, body = answer_to(connection, sent)
        assert (status, headers["content-type"]) == (400, "application/json")
        error = json.loads(body)["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "malformed_http")
        assert is_closed(connection)


def test_nonsense_behind_a_request_is_not_answered_inside_of_its_answer() -> None:
    with connected(Bounds()) as (server, connection):
        body = json.dumps({"prompt": "stall", "max_tokens": 8, "stream": True}).encode()
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        received = connection.recv(65536)
        assert b"200 OK" in received
        connection.sendall(b"nonsense\r\n\r\n")
        while piece := connection.recv(65536):
            received += piece
        assert b"HTTP/1.1 400" not in received
        server.wait_until(lambda: server.backend.num_running == 0)


@pytest.mark.parametrize("sent", [b"", HEAD])
def test_a_connection_that_does_not_finish_its_head_is_cut_off(sent: bytes) -> None:
    with connected(Bounds(read_timeout_s=0.05)) as (_, connection):
        connection.sendall(sent)
        assert is_closed(connection)


def test_a_compressed_body_is_refused_unread(server: RunningServer) -> None:
    status, _, body = server.exchange("POST", "/v1/completions", BODY, content_encoding="gzip")
    assert status == 400
    assert "compressed" in json.loads(body)["error"]["message"]


def test_a_burst_is_bounded_and_leaves_health_and_metrics_alone() -> None:
    async def main() -> None:
        backend = FakeBackend(script=lambda request: [Stall()])
        app = build_app(GuardedBackend(backend), bounds=Bounds(max_open_requests=3), log=make_logger(written))
        async with living(app):
            held = [post(app, "/v1/completions", {"prompt": "a"}) for _ in range(3)]
            await settle()
            one_more = post(app, "/v1/completions", {"prompt": "a"})
            await one_more.task
            assert (one_more.status, one_more.json()["error"]["code"]) == (503, "overloaded")
            assert one_more.header("retry-after") is not None
            for path in ("/health", "/metrics"):
                probe = get(app, path)
                await probe.task
                assert probe.status == 200
            for exchange in held:
                exchange.leave()
                await exchange.task
            after = post(app, "/v1/completions", {"prompt": "a"})
            await settle()
            assert backend.num_live_streams == 1
            after.leave()
            await after.task

    written = io.StringIO()
    asyncio.run(main())
    [refused] = [line for line in written.getvalue().splitlines() if "request refused" in line]
    assert "Traceback" not in refused, "a trace for each request that is one too many would be load of its own"
