from __future__ import annotations

import asyncio

import openai
import pytest

from enginebay import GenerationRequest, SamplingParams, Text, get_backend
from enginebay.clock import MonotonicClock
from enginebay.errors import BackendTimeout, BackendUnavailable, ConfigError, UpstreamError
from enginebay.testing.simulators import PACED, Fault, FaultPlan, FaultRule, Simulator, SimulatorProfile
from enginebay.testing.simulators.faults import FaultSwitch, parse_fault
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpTimeouts

JSON = {"content-type": "application/json"}
STREAMED = b'{"prompt": "the fox", "max_tokens": 6, "temperature": 0, "stream": true}'
WHOLE = STREAMED.replace(b"true", b"false")


def run(main):
    asyncio.run(asyncio.wait_for(main(), 30))


def client_of(simulator: Simulator) -> HttpClient:
    return HttpClient(simulator.url, clock=MonotonicClock(), timeouts=HttpTimeouts(first_byte_s=0.2, idle_s=0.2))


async def streamed(client: HttpClient, seen: list[bytes] | None = None) -> bytes:
    """seen: gets the pieces as they come."""
    pieces = [] if seen is None else seen
    async for data, _ in await client.stream("POST", "/v1/completions", body=STREAMED, headers=JSON):
        pieces.append(data)
    return b"".join(pieces)


def backend_on(simulator: Simulator):
    return get_backend("openai_http", url=simulator.url, model="simulated")


async def ask(client: HttpClient, body: bytes = WHOLE):
    return await client.request("POST", "/v1/completions", body=body, headers=JSON)


def test_a_fault_strikes_the_request_of_its_index_alone():
    async def main():
        plan = FaultPlan(by_index={1: Fault.REFUSE})
        async with Simulator("vllm", faults=plan) as simulator:
            client = client_of(simulator)
            assert (await ask(client)).status == 200
            with pytest.raises(BackendUnavailable):
                await ask(client)
            assert (await ask(client)).status == 200
            await client.aclose()

    run(main)


def test_faults_by_chance_are_the_same_for_the_same_seed():
    def decided(seed: int) -> list[bool]:
        switch = FaultSwitch(FaultPlan(rules=[FaultRule(fault=Fault.CUT, probability=0.3)], seed=seed))
        return [switch.decide() is not None for _ in range(400)]

    assert decided(1) == decided(1)
    assert decided(1) != decided(2)
    assert 80 < sum(decided(1)) < 160


def test_a_stream_is_cut_after_the_events_that_were_asked_for():
    async def main():
        async with Simulator("vllm") as simulator:
            client = client_of(simulator)
            simulator.faults.inject(Fault.CUT, after_events=2)
            seen: list[bytes] = []
            with pytest.raises(BackendUnavailable):
                await streamed(client, seen)
            assert b"".join(seen).count(b"data: ") == 2
            simulator.faults.clear()
            assert (await streamed(client)).endswith(b"data: [DONE]\n\n")
            await client.aclose()

    run(main)


def test_a_stalled_answer_stays_open_until_its_client_has_had_enough():
    async def main():
        async with Simulator("vllm") as simulator:
            client = client_of(simulator)
            simulator.faults.inject(Fault.STALL, num_requests=2)
            for asking in (streamed(client), ask(client)):
                with pytest.raises(BackendTimeout):
                    await asking
            assert (await ask(client)).status == 200
            await client.aclose()
            await simulator.until_idle()
            assert simulator.engine.num_used_blocks == 0

    run(main)


def test_a_malformed_event_is_no_json_and_a_malformed_answer_neither():
    async def main():
        async with Simulator("vllm") as simulator, backend_on(simulator) as backend:
            simulator.faults.inject(Fault.MALFORMED)
            for delivery in ("stream", "final"):
                request = GenerationRequest(
                    request_id="r", prompt=Text("a"), sampling=SamplingParams(max_tokens=5), delivery=delivery
                )
                with pytest.raises(UpstreamError, match="not understood"):
                    [chunk async for chunk in backend.generate(request)]

    run(main)


def test_wrong_usage_is_one_token_more_than_was_given():
    async def main():
        async with Simulator("vllm") as simulator, openai.AsyncOpenAI(
            base_url=f"{simulator.url}/v1", api_key="k", max_retries=0
        ) as client:  # fmt: skip
            simulator.faults.inject(Fault.WRONG_USAGE)
            answer = await client.completions.create(model="simulated", prompt="the", max_tokens=5)
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 6

    run(main)


def test_an_engine_may_die_and_its_server_live_on():
    async def main():
        async with Simulator("vllm", profile=PACED) as simulator:
            client = client_of(simulator)
            asking = asyncio.create_task(streamed(client))
            await simulator.until(lambda it: it.engine.metrics.num_output_tokens >= 2)
            simulator.kill_engine("CUDA error: an illegal memory access was encountered")
            assert b'"error":{"message":"CUDA error' in await asking
            assert (await client.request("GET", "/health")).status == 503
            assert (await ask(client)).status == 500
            assert simulator.engine.num_used_blocks == 0
            simulator.revive_engine()
            assert (await ask(client)).status == 200
            await client.aclose()

    run(main)


def test_a_simulator_can_refuse_connections_and_take_them_again():
    async def main():
        async with Simulator("vllm") as simulator:
            client = client_of(simulator)
            await simulator.refuse_connections()
            with pytest.raises(BackendUnavailable):
                await ask(client)
            await simulator.accept_connections()
            assert (await ask(client)).status == 200
            await client.aclose()

    run(main)


def test_vllm_refuses_connections_until_it_is_loaded():
    async def main():
        async with Simulator("vllm", profile=SimulatorProfile(pace="instant", load_time_s=0.2)) as simulator:
            client = client_of(simulator)
            with pytest.raises(BackendUnavailable):
                await client.request("GET", "/health")
            await simulator.wait_loaded()
            assert (await client.request("GET", "/health")).status == 200
            await client.aclose()

    run(main)


def test_a_client_that_leaves_frees_its_place_and_its_blocks():
    async def main():
        async with Simulator("vllm", profile=PACED) as simulator:
            client = client_of(simulator)
            asking = asyncio.create_task(streamed(client))
            await simulator.until(lambda it: it.engine.metrics.num_output_tokens >= 2)
            assert simulator.num_in_flight == 1
            assert simulator.engine.num_used_blocks > 0
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await simulator.until_idle()
            assert simulator.engine.num_used_blocks == 0
            assert simulator.engine.metrics.num_finished["abort"] == 1
            await client.aclose()

    run(main)


def test_a_closed_simulator_leaves_no_task_and_no_socket():
    async def main():
        before = asyncio.all_tasks()
        simulator = Simulator("vllm", profile=PACED)
        await simulator.start()
        client = client_of(simulator)
        asking = asyncio.create_task(streamed(client))
        await simulator.until(lambda it: it.engine.metrics.num_output_tokens >= 1)
        await simulator.aclose()
        with pytest.raises(BackendUnavailable):
            await asking
        await client.aclose()
        await asyncio.sleep(0)  # the client's own task was cancelled, and ends in the next turn
        assert asyncio.all_tasks() == before
        assert simulator.num_connections == 0

    run(main)


@pytest.mark.parametrize("text", ["nonsense", "stall:often", "stall:2", "stall:-0.1", "stall:nan"])
def test_a_fault_that_is_none_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=r"--fault.*is no fault.*refuse, loading"):
        parse_fault(text)


def test_a_rule_of_an_impossible_probability_or_place_is_refused():
    for fields in ({"probability": float("nan")}, {"probability": 1.1}, {"after_events": -1}):
        with pytest.raises(ConfigError, match="stall"):
            FaultRule(fault=Fault.STALL, **fields)  # type: ignore[arg-type]
