from __future__ import annotations

import asyncio
import gc
import socket
import ssl

import pytest
import uvloop
from raw_server import raw_server, until

from enginebay.clock import MonotonicClock
from enginebay.errors import BackendTimeout, BackendUnavailable, ConfigError, InvalidRequest, NotStarted, UpstreamError
from enginebay.testing import FakeClock, Fault, Script, ScriptedServer
from enginebay.wire import http_connection
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpLimits, HttpTimeouts

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LONG_BODY = b'{"prompt": "' + b"x" * 3_000_000 + b'"}'


def client_of(url: str, **settings) -> HttpClient:
    settings.setdefault("clock", MonotonicClock())
    return HttpClient(url, **settings)


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request):
    """Runs a coroutine function to its end on either event loop, and demands that it leaves no task behind."""

    async def with_no_task_left(main):
        await asyncio.wait_for(main(), 30)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield lambda main: runner.run(with_no_task_left(main))


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", b"abcd"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", b""),
    ],
)
def test_an_answer_is_read_whatever_its_framing_and_the_connection_is_used_again(answer, body, run):
    async def main():
        async with raw_server(answer) as server:
            client = client_of(server.url)
            for _ in range(3):
                assert (await client.request("GET", "/")).body == body
            assert (server.num_connections, client.num_open, client.num_idle) == (1, 1, 1)
            await client.aclose()
            assert client.num_open == 0

    run(main)


def test_a_body_without_length_ends_with_the_connection(run):
    async def answer(server, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil ")
        await writer.drain()
        writer.write(b"the end")
        writer.close()

    async def main():
        async with raw_server(answer) as server:
            client = client_of(server.url)
            assert (await client.request("GET", "/")).body == b"until the end"
            assert client.num_open == 0
            await client.aclose()

    run(main)


def test_an_answer_split_at_every_byte_is_the_same_answer(run):
    whole = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"

    async def answer(server, writer):
        for index in range(len(whole)):
            writer.write(whole[index : index + 1])
            await asyncio.sleep(0)

    async def main():
        async with raw_server(answer) as server:
            client = client_of(server.url)
            response = await client.request("GET", "/")
            assert (response.status, response.body, response.headers["x-a"]) == (200, b"abcde", "1, 2")
            assert client.num_idle == 1
            await client.aclose()

    run(main)


def test_long_prompts_and_long_answers_pass_whole(run):
    body = b"y" * 5_000_000
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)

    async def main():
        async with raw_server(head + body) as server:
            client = client_of(server.url)
            assert (await client.request("POST", "/", body=LONG_BODY)).body == body
            assert server.requests[0].endswith(LONG_BODY)
            await client.aclose()

    run(main)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"NOT HTTP AT ALL\r\n\r\n", "malformed HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "malformed HTTP"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", "a head of more than"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 400_000, "a head of more than"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n", "redirects to 'http://els"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx", "content-encoding 'gzip'"),
        (b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "malformed HTTP"),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_upstream_error_and_its_connection_is_dropped(answer, problem, run):
    async def main():
        async with raw_server(answer) as server:
            client = client_of(server.url, backend="production")
            with pytest.raises(UpstreamError, match=problem) as caught:
                await client.request("GET", "/")
            assert caught.value.backend == "production"
            assert client.num_open == client.num_idle
            await client.aclose()

    run(main)


def test_a_second_answer_to_one_request_is_never_taken_for_the_next(run):
    async def main():
        async with raw_server(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil") as server:
            client = client_of(server.url)
            assert (await client.request("GET", "/")).body == b"ok"
            assert (await client.request("GET", "/")).body == b"ok"
            assert server.num_connections == 2
            await client.aclose()

    run(main)


def test_an_idle_connection_that_speaks_is_dropped(run):
    async def answer(server, writer):
        writer.write(OK)
        await asyncio.sleep(0.01)
        writer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")

    async def main():
        async with raw_server(answer) as server:
            client = client_of(server.url)
            await client.request("GET", "/")
            await until(lambda: not client.num_open)
            assert (await client.request("GET", "/")).status == 200
            await client.aclose()

    run(main)


def test_a_whole_answer_is_bounded(run):
    async def main():
        async with raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789") as server:
            client = client_of(server.url, limits=HttpLimits(max_body_bytes=8))
            with pytest.raises(UpstreamError, match="longer than 8 bytes"):
                await client.request("GET", "/")
            await client.aclose()

    run(main)


# ---------------------------------------------------------------- requests


def test_a_request_has_host_length_own_headers_and_the_base_path(run):
    async def main():
        async with raw_server(OK) as server:
            client = client_of(server.url + "/base/", headers={"authorization": "Bearer k"})
            await client.request("POST", "/v1/x?y=1", body=b"{}", headers={"content-type": "application/json"})
            head = server.requests[0].decode()
            host = server.url.removeprefix("http://")
            assert head == (
                f"POST /base/v1/x?y=1 HTTP/1.1\r\nhost: {host}\r\nuser-agent: enginebay\r\nauthorization: Bearer k\r\n"
                "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
            )
            await client.aclose()

    run(main)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_ipv6_address_works_and_stands_in_brackets_in_the_host_header(run):
    async def main():
        try:
            async with raw_server(OK, host="::1") as server:
                client = client_of(server.url)
                await client.request("GET", "/")
                assert b"host: [::1]:" in server.requests[0]
                await client.aclose()
        except OSError:
            pytest.skip("no IPv6 loopback")

    run(main)


@pytest.mark.parametrize("url", ["ftp://x", "localhost:80", "http://", "http://u:p@x", "http://x?y", "http://x:99999"])
def test_an_address_that_is_no_server_is_a_config_error(url):
    with pytest.raises(ConfigError, match="URL"):
        client_of(url)


def test_a_header_or_path_cannot_smuggle_a_second_request(run):
    async def main():
        client = client_of("http://127.0.0.1:1")
        with pytest.raises(InvalidRequest, match="line break"):
            await client.request("GET", "/", headers={"x": "a\r\nhost: evil"})
        with pytest.raises(InvalidRequest, match="name of a header"):
            await client.request("GET", "/", headers={"x\r\ny": "a"})
        with pytest.raises(InvalidRequest, match="percent-encoded"):
            await client.request("GET", "/ HTTP/1.1\r\n")

    run(main)


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
