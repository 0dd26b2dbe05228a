"""`kill -9` of one of two real processes under load, behind a whole gateway."""

import asyncio
import os
import re
import signal
import sys
from contextlib import asynccontextmanager

import pytest
from asgi_client import living, post

from enginebay.config.loader import parse_config
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.logs import make_logger

pytestmark = pytest.mark.slow
NUM_REQUESTS = 200
KILLED_AFTER = 60
"""Requests that have ended."""


@asynccontextmanager
async def a_simulator():
    """Its process and URL. It is killed in the end, whatever happened."""
    arguments = ["simulate", "vllm", "--port", "0", "--profile", "paced", "--tick-s", "0.01", "--load-time-s", "0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "enginebay.cli", *arguments, "--", "--model", "tiny", stdout=asyncio.subprocess.PIPE
    )
    try:
        line = (await process.stdout.readline()).decode()
        yield process, re.search(r"http://\S+", line).group()
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
        await process.communicate()


def config_of(*urls):
    entries = "\n".join(f"  e{n}: {{kind: openai_http, model: tiny, url: {url!r}}}" for n, url in enumerate(urls))
    backends = ", ".join(f"{{backend: e{n}}}" for n in range(len(urls)))
    return parse_config(
        f"""
version: 1
backend: e0
backends:
{entries}
gateway:
  timeouts: {{first_token_s: 10, between_tokens_s: 5}}
  health: {{period_s: 0.2}}
  models: {{tiny: {{versions: {{v1: [{backends}]}}}}}}
"""
    )


async def ask(app, number, ended):
    fields = {"model": "tiny", "prompt": f"question {number}", "max_tokens": 20, "stream": True}
    exchange = post(app, "/v1/completions", fields)
    await exchange.task
    ended.append(number)
    return exchange


def test_no_request_fails_that_had_not_begun_to_stream_and_the_others_are_told_so():
    async def main():
        async with a_simulator() as (doomed, one), a_simulator() as (_, other):
            app = app_from_config(config_of(one, other), log=make_logger(level="critical"))
            async with living(app):
                ended = []
                places = asyncio.Semaphore(40)

                async def client(number):
                    async with places:
                        return await ask(app, number, ended)

                clients = [asyncio.create_task(client(number)) for number in range(NUM_REQUESTS)]
                while len(ended) < KILLED_AFTER:  # noqa: ASYNC110 - counted by the clients themselves
                    await asyncio.sleep(0.005)
                doomed.kill()
                answers = await asyncio.gather(*clients)
                demand_in_order(app, answers)

    asyncio.run(main())


def demand_in_order(app, answers):
    assert len(answers) == NUM_REQUESTS
    cut = 0
    for exchange in answers:
        assert exchange.status == 200, exchange.body
        *tokens, last = exchange.events()
        if "error" not in last:
            assert last["choices"][0]["finish_reason"] == "length"
            continue
        assert any(event["choices"][0]["text"] for event in tokens)  # it had begun
        assert last["error"]["code"] in ("backend_unavailable", "engine_died", "upstream_error")
        cut += 1
    assert cut <= 40
    replicas = [owned.replica for owned in app.served.models.content.replicas.values()]
    assert [replica.num_in_flight for replica in replicas] == [0, 0]
    assert [replica.is_available() for replica in replicas] == [False, True]
