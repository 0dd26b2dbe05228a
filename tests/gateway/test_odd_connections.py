"""Connections that are used in ways of HTTP/1.1 that few clients know: nothing is held, nothing waits for ever."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from running_server import RunningServer, http_request, read_response
from scripted_backend import ScriptedBackend

from enginebay.event_loop import new_event_loop
from enginebay.gateway.asgi import abort_connection
from enginebay.gateway.bounds import Bounds

HEALTH = http_request("GET", "/health")


def completion(script: str, **fields: object) -> bytes:
    body = json.dumps({"prompt": f"{script} b", "max_tokens": 8, **fields}).encode()
    return http_request("POST", "/v1/completions", body)


def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.01)


@contextmanager
def impatient() -> Iterator[RunningServer]:
    with RunningServer(ScriptedBackend, bounds=Bounds(read_timeout_s=0.05, max_body_bytes=1000)) as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_behind_a_second_request_ends_the_first_in_the_engine(server: RunningServer, stream: bool) -> None:
    with server.connection() as connection:
        connection.sendall(completion("hang", stream=stream) + HEALTH)
        server.wait_until(lambda: server.backend.num_running == 1)
    server.wait_until(lambda: server.backend.num_running == 0)


def test_a_second_request_that_comes_later_keeps_nobody_from_leaving(server: RunningServer) -> None:
    with server.connection() as connection:
        connection.sendall(completion("hang"))
        server.wait_until(lambda: server.backend.num_running == 1)
        connection.sendall(HEALTH)
        until(lambda: any(transport.get_protocol().pipeline for transport in server.connections()))
    server.wait_until(lambda: server.backend.num_running == 0)


def test_requests_that_wait_for_their_turn_are_answered_in_their_order(server: RunningServer) -> None:
    with server.connection() as connection:
        connection.sendall(completion("a") + HEALTH + completion("a", n=2) + completion("{"))
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 4 or not received.endswith(b"}"):
            received += connection.recv(65536)
    bodies = [part.split(b"\r\n\r\n")[1] for part in received.split(b"HTTP/1.1 ")[1:]]
    assert [len(json.loads(body).get("choices", ())) for body in bodies] == [1, 0, 2, 1]


@pytest.mark.parametrize("name", ["x-request-id", "x-enginebay-session"])
def test_what_stands_behind_a_body_is_no_header(server: RunningServer, name: str) -> None:
    """A proxy that takes a header away does not look for it there."""
    body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"
    framed = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n%b: smuggled\r\n\r\n" % (
        len(body),
        body,
        name.encode(),
    )
    with server.connection() as connection:
        connection.sendall(head + framed)
        status, headers, _ = read_response(connection)
    assert status == 200
    assert headers["x-request-id"] != "smuggled"
    assert server.backend.requests[-1].session_key is None


def test_behind_an_offer_of_another_protocol_nothing_is_taken_for_a_request(server: RunningServer) -> None:
    """The parser reads no body there: what came of one would else be the next request of this connection."""
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
    for head in (http_request("GET", "/health", **offer), http_request("GET", "/health", HEALTH, **offer)):
        with server.connection() as connection:
            connection.sendall(head)
            received = b""
            while piece := connection.recv(65536):
                received += piece
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert received.count(b"HTTP/1.1 ") == 1
        assert b"\r\nconnection: close\r\n" in received


def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_the_connection(server: RunningServer) -> None:
    with server.connection() as connection:
        connection.sendall(completion("a", stream=True).replace(b"HTTP/1.1", b"HTTP/1.0"))
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, events = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert events.startswith(b"data: {")
    assert events.endswith(b"data: [DONE]\n\n")


def wait_until_closed(connection: socket.socket, *, sending: bytes) -> None:
    """While it sends on, a little at a time."""
    ends_at = time.monotonic() + 3
    connection.settimeout(0.02)
    while time.monotonic() < ends_at:
        try:
            connection.sendall(sending)
            if connection.recv(65536) == b"":
                return
        except TimeoutError:
            continue
        except OSError:
            return
    raise AssertionError("the connection is still open")


def test_empty_lines_keep_no_connection_open() -> None:
    with impatient() as server, server.connection() as connection:
        connection.sendall(HEALTH)
        assert read_response(connection)[0] == 200
        wait_until_closed(connection, sending=b"\r\n")


def test_a_body_that_was_refused_is_not_read_for_ever() -> None:
    with impatient() as server, server.connection() as connection:
        connection.sendall(http_request("POST", "/v1/completions", content_length="100000000"))
        assert read_response(connection)[0] == 413
        wait_until_closed(connection, sending=b"x")


def test_a_whole_answer_that_nobody_reads_is_dropped() -> None:
    with impatient() as server, server.connection() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(completion("flood", max_tokens=62))
        until(lambda: any(transport.get_write_buffer_size() for transport in server.connections()))
        until(lambda: not server.connections())


def test_a_body_that_waits_to_be_asked_for_is_asked_for_or_the_connection_ends(server: RunningServer) -> None:
    head, _, body = completion("a").partition(b"\r\n\r\n")
    with server.connection() as connection:
        connection.sendall(head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        status, headers, _ = read_response(connection)
        assert (status, headers.get("connection")) == (200, None)
    refused = http_request("POST", "/v1/completions", content_length="100000000", expect="100-continue")
    with server.connection() as connection:
        connection.sendall(refused)
        status, headers, _ = read_response(connection)
        assert (status, headers.get("connection")) == (413, "close")
        assert connection.recv(10) == b""


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, new_event_loop])
def test_a_connection_can_be_dropped_on_every_event_loop(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    class Peer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            transport.write(b"x" * 50_000_000)
            dropped.append(abort_connection(self.send))

        def connection_lost(self, exc: Exception | None) -> None:
            is_lost.set()

        async def send(self, message: object) -> None:
            raise AssertionError(message)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Peer, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            async with asyncio.timeout(5):
                await is_lost.wait()
        server.close()
        await server.wait_closed()

    dropped: list[bool] = []
    is_lost = asyncio.Event()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    assert dropped == [True]
