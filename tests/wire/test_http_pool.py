from __future__ import annotations

import asyncio
import random

import pytest
from raw_server import until

from enginebay.clock import MonotonicClock
from enginebay.errors import BackendTimeout, EngineBayError
from enginebay.testing import FakeClock, Fault, Script, ScriptedServer
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpTimeouts

BODY = b'{"stream": true, "max_tokens": 4}'


def run(main):
    asyncio.run(asyncio.wait_for(main(), 30))


def test_connections_are_opened_in_advance_and_never_more_than_allowed():
    async def main():
        async with ScriptedServer() as server:
            client = HttpClient(server.url, clock=MonotonicClock(), max_connections=5)
            await client.open(3)
            assert (client.num_open, client.num_idle) == (3, 3)
            await client.open(3)
            assert client.num_open == 3
            await client.open(99)
            await asyncio.gather(*(client.request("GET", "/health") for _ in range(40)))
            assert (client.num_open, client.num_idle, server.num_connections_made) == (5, 5, 5)
            await client.aclose()

    run(main)


def test_waiters_are_served_in_the_order_they_came():
    async def main():
        async with ScriptedServer() as server:
            client = HttpClient(server.url, clock=MonotonicClock(), max_connections=2)
            order: list[int] = []

            async def ask(number: int) -> None:
                await client.request("POST", f"/v1/completions?{number}", body=b"{}")

            tasks = []
            for number in range(30):
                tasks.append(asyncio.create_task(ask(number)))
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            order = [int(request.path.partition("?")[2]) for request in server.received]
            displaced = [abs(place - number) for place, number in enumerate(order)]
            assert max(displaced) <= 1  # two are under way at once
            await client.aclose()

    run(main)


def test_waiting_for_a_connection_is_bounded_by_the_request_s_own_time_out():
    clock = FakeClock()

    async def ask(server):
        client = HttpClient(server.url, clock=clock, max_connections=1)
        held = await client.stream("POST", "/v1/completions", body=BODY, timeouts=HttpTimeouts(idle_s=None))
        with pytest.raises(BackendTimeout, match=r"no connection to .* came free in time: all 1 are busy"):
            await client.request("GET", "/health", timeout_s=5.0)
        assert clock.now() == pytest.approx(5.0, abs=0.02)
        assert (client.num_open, client.num_waiting) == (1, 0)
        held.abort()
        assert (await client.request("GET", "/health", timeout_s=5.0)).status == 200
        await client.aclose()

    async def main():
        async with ScriptedServer(Script(fault=Fault.STALL)) as server:
            await clock.run(ask(server))

    run(main)


def test_idle_connections_are_closed_before_the_server_would():
    clock = FakeClock()

    async def ask(server):
        client = HttpClient(server.url, clock=clock, keep_alive_s=4.0)
        await client.open(3)
        await client.request("GET", "/health")
        await clock.sleep_until(3.9)
        assert client.num_open == 3
        await clock.sleep_until(4.1)
        assert (client.num_open, client.num_idle) == (0, 0)
        await client.aclose()

    async def main():
        async with ScriptedServer() as server:
            await clock.run(ask(server))

    run(main)


def test_the_keep_alive_that_a_server_announces_is_believed_less_a_margin():
    clock = FakeClock()

    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=20, max=100\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    async def ask(port):
        client = HttpClient(f"http://127.0.0.1:{port}", clock=clock, keep_alive_s=4.0)
        await client.request("GET", "/")
        await clock.sleep_until(18.9)
        assert client.num_idle == 1
        await clock.sleep_until(19.1)
        assert client.num_open == 0
        await client.aclose()

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            await clock.run(ask(server.sockets[0].getsockname()[1]))
            await asyncio.sleep(0.01)

    run(main)


def test_a_cancelled_waiter_hands_what_it_was_given_to_the_next():
    async def main():
        async with ScriptedServer(Script(fault=Fault.STALL)) as server:
            client = HttpClient(server.url, clock=MonotonicClock(), max_connections=1)
            held = await client.stream("POST", "/v1/completions", body=BODY)
            first, second = (asyncio.create_task(client.request("GET", "/health")) for _ in range(2))
            await until(lambda: client.num_waiting == 2)
            held.abort()  # the place is given to the first waiter, which has not run yet
            first.cancel()
            assert (await second).status == 200
            assert first.cancelled() or first.done()
            assert (client.num_open, client.num_idle, client.num_waiting) == (1, 1, 0)
            await client.aclose()

    run(main)


def test_cancels_at_any_point_leave_no_connection_counted_no_task_and_no_socket():
    """800 requests over few connections: slow heads, paced bodies, stalls, cuts; each cancelled at a random moment."""
    rng = random.Random(20261122)
    scripts = [
        Script(),
        Script(head_after_s=0.004),
        Script(first_token_after_s=0.002, token_gap_s=0.001),
        Script(fault=Fault.STALL, fault_after_tokens=2),
        Script(fault=Fault.CUT, fault_after_tokens=1),
        Script(fault=Fault.REFUSE),
        Script(fault=Fault.CLOSE),
        Script(fault=Fault.CLOSE_SILENTLY),
    ]

    async def ask(client):
        try:
            stream = await client.stream("POST", "/v1/completions", body=BODY)
            async for _ in stream:
                pass
        except EngineBayError:
            return

    async def main():
        async with ScriptedServer(lambda request: rng.choice(scripts)) as server:
            client = HttpClient(server.url, clock=MonotonicClock(), max_connections=24)
            loop = asyncio.get_running_loop()
            tasks = [asyncio.create_task(ask(client)) for _ in range(800)]
            for index, task in enumerate(tasks):
                loop.call_later(rng.random() * 0.3, task.cancel)
                if index % 20 == 0:
                    await asyncio.sleep(0.002)
            await asyncio.wait(tasks)
            await until(lambda: client.num_open == client.num_idle)
            assert client.num_waiting == 0
            await until(lambda: server.num_live_streams == 0)
            await until(lambda: server.num_connections == client.num_open)
            server.script = Script()
            assert (await client.request("POST", "/v1/completions", body=b"{}")).status == 200
            await client.aclose()
            assert client.num_open == 0
            await until(lambda: server.num_connections == 0)
            assert asyncio.all_tasks() == {asyncio.current_task()} | _main_task()

    run(main)


def _main_task():
    return {task for task in asyncio.all_tasks() if task.get_coro().__name__ == "wait_for"}
