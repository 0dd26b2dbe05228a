"""Requests and answers, whatever their framing."""

from __future__ import annotations

import asyncio
import socket

import pytest
from http_client_asking import LONG_BODY, OK, client_of
from raw_server import raw_server, until

from enginebay.errors import ConfigError, InvalidRequest, UpstreamError
from enginebay.wire.http_types import HttpLimits

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


def test_a_listener_is_given_what_was_sent_and_when_until_it_is_removed(run):
    async def main():
        async with raw_server(OK) as server:
            client = client_of(server.url)
            sends = []

            def listener(sent_at, head, body):
                sends.append((sent_at, head, body))

            client.add_send_listener(listener)
            response = await client.request("POST", "/v1/x", body=b"the body", headers={"x-request-id": "seven"})
            client.remove_send_listener(listener)
            await client.request("GET", "/")
            await client.aclose()
            [(sent_at, head, body)] = sends
            assert body == b"the body"
            assert head.startswith(b"POST /v1/x HTTP/1.1\r\n")
            assert b"x-request-id: seven\r\n" in head
            assert sent_at <= response.received_at

    run(main)


# ---------------------------------------------------------------- answers that are collected

EVENTS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
DONE = b"e\r\ndata: [DONE]\n\n\r\n"


def test_a_collected_answer_is_there_whole_and_its_connection_is_used_again(run):
    async def main():
        async with raw_server(EVENTS + b"1\r\nd\r\n0\r\n\r\n") as server:
            client = client_of(server.url)
            for _ in range(2):
                stream = await client.send(client.head("GET", "/", b"", {}), b"")
                await stream.collect(1000)
                assert b"".join(data for data, _ in stream.take()) == b"abcd"
                assert stream.take() == []
            assert (server.num_connections, client.num_idle) == (1, 1)
            await client.aclose()

    run(main)


def test_the_last_event_ends_a_collected_answer_though_its_body_stays_open(run):
    async def main():
        async with raw_server(EVENTS + DONE) as server:
            client = client_of(server.url)
            stream = await client.send(client.head("GET", "/", b"", {}), b"")
            await asyncio.wait_for(stream.collect(1000), 5)
            assert b"".join(data for data, _ in stream.take()) == b"abcdata: [DONE]\n\n"
            stream.release()
            await client.aclose()

    run(main)


def test_a_collected_answer_longer_than_the_bound_is_an_error(run):
    async def main():
        async with raw_server(b"HTTP/1.1 200 OK\r\ncontent-length: 3000\r\n\r\n" + b"x" * 2000) as server:
            client = client_of(server.url)
            stream = await client.send(client.head("GET", "/", b"", {}), b"")
            with pytest.raises(UpstreamError, match="longer than 1000 bytes"):
                await asyncio.wait_for(stream.collect(1000), 5)
            stream.abort()
            assert client.num_open == 0
            await client.aclose()

    run(main)
