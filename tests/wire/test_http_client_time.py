"""Instants, time limits, and consumers that lag."""

from __future__ import annotations

import asyncio
import socket

import pytest
from http_client_asking import client_of
from raw_server import raw_server, until

from enginebay.errors import BackendTimeout, BackendUnavailable
from enginebay.testing import FakeClock, Fault, Script, ScriptedServer
from enginebay.wire.http_types import HttpLimits, HttpTimeouts

# ---------------------------------------------------------------- time


def test_bytes_are_stamped_once_for_each_read_with_the_injected_clock(run):
    clock = FakeClock(1000.0)

    async def answer(server, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n")
        await go_on.wait()
        writer.write(b"1\r\nc\r\n0\r\n\r\n")

    async def main():
        nonlocal go_on
        go_on = asyncio.Event()
        async with raw_server(answer) as server:
            client = client_of(server.url, clock=clock)
            stream = await client.stream("GET", "/")
            assert await anext(stream) == (b"ab", 1000.0)
            clock.advance(5.0)
            go_on.set()
            assert [piece async for piece in stream] == [(b"c", 1005.0)]
            await client.aclose()

    go_on = None
    run(main)


async def read_stream(client, timeouts):
    stream = await client.stream("POST", "/v1/completions", body=b'{"stream": true}', timeouts=timeouts)
    return [piece async for piece in stream]


@pytest.mark.parametrize(
    ("script", "timeouts", "problem", "elapsed_s"),
    [
        (Script(head_after_s=50), HttpTimeouts(first_byte_s=3), "did not begin to answer within 3 s", 3),
        (Script(fault=Fault.STALL, fault_after_tokens=1), HttpTimeouts(idle_s=7), "sent nothing for 7 s", 7),
        (Script(fault=Fault.STALL), HttpTimeouts(total_s=9), "did not finish its answer within 9 s", 9),
        (Script(token_gap_s=2), HttpTimeouts(idle_s=3, total_s=9), "did not finish its answer within 9 s", 9),
    ],
)
def test_each_time_out_is_a_typed_error_at_its_instant(script, timeouts, problem, elapsed_s, run):
    clock = FakeClock()
    seen: list[float] = []

    async def ask(server):
        client = client_of(server.url, clock=clock)
        with pytest.raises(BackendTimeout, match=problem):
            await read_stream(client, timeouts)
        seen.append(clock.now())
        assert client.num_open == 0
        await client.aclose()

    async def main():
        async with ScriptedServer(script, clock=clock) as server:
            await clock.run(ask(server))

    run(main)
    assert seen[0] == pytest.approx(elapsed_s, abs=0.02)


def test_a_slow_consumer_is_not_mistaken_for_a_silent_server(run):
    clock = FakeClock()

    async def answer(server, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n" + b"x" * 400_000)

    async def main():
        async with raw_server(answer) as server:
            client = client_of(server.url, clock=clock, limits=HttpLimits(max_buffered_bytes=1000))
            stream = await client.stream("GET", "/", timeouts=HttpTimeouts(idle_s=1.0))
            await asyncio.sleep(0.02)
            await clock.run_for(100.0)
            assert sum([len(data) async for data, _ in stream]) == 400_000
            await client.aclose()

    run(main)


def test_connecting_is_bounded(run):
    async def main():
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        blocked = [socket.socket() for _ in range(4)]
        try:
            for one in blocked:  # fill the backlog, so that the next connect is never accepted
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
            client = client_of(f"http://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=0.05)
            with pytest.raises(BackendTimeout, match=r"did not accept a connection within 0\.05 s"):
                await client.request("GET", "/")
            assert client.num_open == 0
            await client.aclose()
        finally:
            for one in [*blocked, listener]:
                one.close()

    run(main)


def test_nobody_listening_is_backend_unavailable(run):
    async def main():
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            client = client_of(f"http://127.0.0.1:{unused.getsockname()[1]}")
            with pytest.raises(BackendUnavailable, match="cannot reach"):
                await client.request("GET", "/")
            with pytest.raises(BackendUnavailable, match="cannot reach"):
                await client.open(3)
            assert client.num_open == 0
            await client.aclose()

    run(main)


# ---------------------------------------------------------------- backpressure


def test_a_lagging_consumer_stops_the_reading_and_loses_nothing(run):
    num_bytes = 30_000_000

    async def answer(server, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % num_bytes)
        for _ in range(num_bytes // 100_000):
            writer.write(b"z" * 100_000)
            await writer.drain()

    async def main():
        async with raw_server(answer) as server:
            client = client_of(server.url, limits=HttpLimits(max_buffered_bytes=1_000_000))
            stream = await client.stream("GET", "/")
            await until(lambda: stream.is_paused)
            await asyncio.sleep(0.02)
            assert stream.num_buffered_bytes < 2_000_000
            assert sum([len(data) async for data, _ in stream]) == num_bytes
            assert client.num_idle == 1
            await client.aclose()

    run(main)
