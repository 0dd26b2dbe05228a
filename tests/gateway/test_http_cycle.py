"""The answer's way onto the socket: one write for head and first piece, and nothing on it that is no answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from enginebay.gateway.asgi import Headers
from enginebay.gateway.direct_connection import direct_connection
from enginebay.gateway.http_cycle import HttpCycle

JSON: Headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]


class RecordingTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def cycle_of(transport: RecordingTransport, *, method: str = "POST", keep_alive: bool = True) -> HttpCycle:
    log = logging.getLogger("test")
    return HttpCycle(
        scope={"method": method, "http_version": "1.1"},
        transport=transport,
        flow=FlowControl(transport),
        logger=log,
        access_logger=log,
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )


def start(status: int = 200, headers: Headers = JSON) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def piece(body: bytes, *, is_last: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": not is_last}


def sent(*messages: dict[str, Any], method: str = "POST", keep_alive: bool = True) -> RecordingTransport:
    async def main() -> RecordingTransport:
        transport = RecordingTransport()
        cycle = cycle_of(transport, method=method, keep_alive=keep_alive)
        for message in messages:
            await cycle.send(message)
        return transport

    return asyncio.run(main())


def test_a_whole_answer_is_one_write() -> None:
    transport = sent(start(), piece(b"{}"))
    assert transport.written == [
        b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    ]
    assert not transport.is_closed


def test_a_stream_opens_with_its_first_piece_and_then_sends_each_by_itself() -> None:
    transport = sent(start(headers=[]), piece(b"one", is_last=False), piece(b"two", is_last=False), piece(b"last"))
    head, *others = transport.written
    assert head == b"HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n"
    assert others == [b"3\r\ntwo\r\n", b"4\r\nlast\r\n0\r\n\r\n"]


def test_to_head_only_the_head_is_sent() -> None:
    (data,) = sent(start(), piece(b"{}"), method="HEAD").written
    assert data.endswith(b"content-length: 2\r\n\r\n")


def test_a_connection_that_is_not_kept_says_so_and_ends() -> None:
    transport = sent(start(), piece(b"{}"), keep_alive=False)
    assert b"\r\nconnection: close\r\n" in transport.written[0]
    assert transport.is_closed


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb"])
def test_a_header_cannot_smuggle_another_one(value: bytes) -> None:
    with pytest.raises(RuntimeError, match="line break"):
        sent(start(headers=[(b"x-request-id", value)]))


@pytest.mark.parametrize("body", [b"", b"{", b"{}}"])
def test_an_answer_of_another_length_than_it_says_is_never_completed(body: bytes) -> None:
    with pytest.raises(RuntimeError, match="content-length"):
        sent(start(), piece(body))


@pytest.mark.parametrize(
    "messages", [(piece(b"{}"),), (start(), start()), (start(), piece(b"{}"), piece(b"{}"))], ids=str
)
def test_messages_out_of_order_are_refused(messages: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(RuntimeError):
        sent(*messages)


def told(*, when: Callable[[HttpCycle], None]) -> list[str]:
    async def main() -> list[str]:
        cycle = cycle_of(RecordingTransport())
        calls: list[str] = []
        direct = direct_connection(cycle.send)
        assert direct is not None
        assert direct is cycle
        direct.tell_when_gone(lambda: calls.append("gone"))
        await cycle.send(start())
        when(cycle)
        cycle.connection_lost()
        return calls

    return asyncio.run(main())


def test_a_client_that_leaves_is_told_once_and_only_before_its_answer_is_complete() -> None:
    assert told(when=lambda cycle: None) == ["gone"]
    assert told(when=lambda cycle: cycle.tell_when_gone(None)) == []
    assert told(when=lambda cycle: setattr(cycle, "response_complete", True)) == []


def test_another_server_has_no_direct_connection() -> None:
    async def send(message: object) -> None:
        raise AssertionError(message)

    assert direct_connection(send) is None
