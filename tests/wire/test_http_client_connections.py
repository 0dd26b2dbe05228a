"""Connections that are lost, aborted and closed."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl

import pytest
from http_client_asking import LONG_BODY, OK, client_of
from raw_server import raw_server, until

from enginebay.errors import BackendUnavailable, NotStarted
from enginebay.testing import FakeClock, Fault, Script, ScriptedServer
from enginebay.wire import http_connection

# ---------------------------------------------------------------- connections lost


def test_a_server_that_closes_without_an_answer_is_asked_once_only(run):
    async def main():
        async with ScriptedServer(Script(fault=Fault.REFUSE)) as server:
            client = client_of(server.url)
            with pytest.raises(BackendUnavailable, match="closed the connection without an answer"):
                await client.request("POST", "/v1/completions", body=b"{}")
            assert server.num_generations == 1
            await client.aclose()

    run(main)


def test_a_request_that_a_used_connection_s_server_received_is_never_sent_twice(run):
    """It may have been begun: only the engine's death tells nothing about what it did before."""

    async def main():
        async with ScriptedServer() as server:
            client = client_of(server.url)
            await client.request("POST", "/v1/completions", body=b"{}")
            server.script = Script(fault=Fault.REFUSE)
            with pytest.raises(BackendUnavailable, match="without an answer"):
                await client.request("POST", "/v1/completions", body=b"{}")
            assert server.num_generations == 2
            await client.aclose()

    run(main)


def test_a_connection_that_the_server_closed_while_idle_is_replaced_unnoticed(run):
    async def main():
        async with ScriptedServer() as server:
            client = client_of(server.url)
            for _ in range(5):
                server.script = Script(fault=Fault.CLOSE_SILENTLY)
                assert (await client.request("POST", "/v1/completions", body=b"{}")).status == 200
            assert server.num_generations == 5
            assert server.num_connections_made == 5
            await client.aclose()

    run(main)


@pytest.mark.parametrize("body", [b"{}", LONG_BODY], ids=["short", "long"])
def test_a_close_that_crosses_the_request_is_proven_and_the_request_sent_again(body, run, monkeypatch):
    """The server's end of stream is in our kernel, unread by the loop, when the request is written."""

    async def main():
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(5)
        client = client_of(f"http://127.0.0.1:{listener.getsockname()[1]}")
        loop = asyncio.get_running_loop()

        def serve_one() -> socket.socket:
            connection, _ = listener.accept()
            while not connection.recv(1_000_000).endswith(b"}"):
                pass
            connection.sendall(OK)
            return connection

        serving = loop.run_in_executor(None, serve_one)
        assert (await client.request("POST", "/", body=b"{}")).body == b"ok"
        connection = await serving
        serving = loop.run_in_executor(None, serve_one)
        connection.close()  # no turn of the loop from here to the write of the next request
        assert (await client.request("POST", "/", body=body)).body == b"ok"
        (await serving).close()
        listener.close()
        await client.aclose()
        assert len(proven) == 1

    proven: list[Exception] = []
    construct = http_connection.StaleConnection.__init__

    def spy(self, *arguments, **keywords):
        proven.append(self)
        construct(self, *arguments, **keywords)

    monkeypatch.setattr(http_connection.StaleConnection, "__init__", spy)
    run(main)


def test_a_server_that_restarts_between_requests_is_found_again(run):
    async def main():
        server = ScriptedServer()
        await server.start()
        client = client_of(server.url)
        await client.open(4)
        assert (await client.request("GET", "/health")).status == 200
        await server.aclose()
        await server.start()
        answers = await asyncio.gather(*(client.request("GET", "/health") for _ in range(8)))
        assert [answer.status for answer in answers] == [200] * 8
        await client.aclose()
        await server.aclose()

    run(main)


def test_what_arrived_before_a_cut_is_delivered_before_the_error(run):
    async def answer(server, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        writer.close()

    async def main():
        async with raw_server(answer) as server:
            client = client_of(server.url)
            stream = await client.stream("GET", "/")
            assert await anext(stream) == (b"half", stream.received_at)
            with pytest.raises(BackendUnavailable, match="in the middle of its answer"):
                await anext(stream)
            assert client.num_open == 0
            await client.aclose()

    run(main)


# ---------------------------------------------------------------- abort, close


def test_abort_closes_the_socket_and_the_server_notices(run):
    async def main():
        async with ScriptedServer(Script(fault=Fault.STALL)) as server:
            client = client_of(server.url)
            stream = await client.stream("POST", "/v1/completions", body=b'{"stream": true}')
            assert server.num_live_streams == 1
            stream.abort()
            stream.abort()
            assert client.num_open == 0
            await until(lambda: not server.num_live_streams)
            assert server.num_cancelled == 1
            await client.aclose()

    run(main)


def test_a_released_stream_keeps_its_connection_only_if_the_rest_comes_soon(run):
    clock = FakeClock()

    async def ask(server):
        client = client_of(server.url, clock=clock)
        for rest_after_s, num_idle in ((0.5, 1), (5.0, 0)):
            server.script = Script(num_tokens=2, token_gap_s=rest_after_s)
            stream = await client.stream("POST", "/v1/completions", body=b'{"stream": true}')
            await anext(stream)
            stream.release()
            await clock.sleep_until(clock.now() + 2.0)
            assert (client.num_idle, client.num_open) == (num_idle, num_idle)
        await client.aclose()

    async def main():
        async with ScriptedServer(clock=clock) as server:
            await clock.run(ask(server))

    run(main)


def test_closing_fails_what_is_under_way_and_what_waits_and_what_comes_later(run):
    async def main():
        async with ScriptedServer(Script(fault=Fault.STALL)) as server:
            client = client_of(server.url, max_connections=1)
            asked = [asyncio.create_task(client.request("POST", "/v1/completions", body=b"{}")) for _ in range(2)]
            await until(lambda: server.num_live_streams and client.num_waiting)
            await client.aclose()
            await client.aclose()
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [NotStarted, NotStarted]
            with pytest.raises(NotStarted, match="was closed"):
                await client.request("GET", "/")
            assert (client.num_open, client.num_idle, client.num_waiting) == (0, 0, 0)

    run(main)


def test_a_closed_client_is_freed_without_the_cycle_collector(run):
    async def main():
        async with ScriptedServer() as server:
            client = client_of(server.url)
            await client.open(3)
            await client.request("GET", "/health")
            await client.aclose()

    gc.collect()
    gc.disable()
    try:
        run(main)
        assert not [found for found in gc.get_objects() if type(found) is http_connection.HttpConnection]
    finally:
        gc.enable()


def test_https_verifies_the_certificate(tmp_path):
    from self_signed import self_signed_certificate

    certificate, key = self_signed_certificate(tmp_path)

    async def main():
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(certificate, key)

        async def handle(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await writer.drain()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=server_context)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        trusting = client_of(url, ssl_context=ssl.create_default_context(cafile=str(certificate)))
        assert (await trusting.request("GET", "/")).body == b"ok"
        await trusting.aclose()
        doubting = client_of(url)
        with pytest.raises(BackendUnavailable, match="certificate"):
            await doubting.request("GET", "/")
        assert doubting.num_open == 0
        await doubting.aclose()
        server.close()
        await asyncio.sleep(0.05)

    asyncio.run(main())
