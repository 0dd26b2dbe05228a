"""A thousand kills, stalls, cuts and cancels through the real adapters: afterwards nothing is left of any of them."""

from __future__ import annotations

import asyncio
import math
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field, replace

import psutil
import pytest

from enginebay import GenerationRequest, SamplingParams, Text, get_backend
from enginebay.errors import BackendError, BackendNotFound
from enginebay.guard import GuardedBackend
from enginebay.plugins import find_backend
from enginebay.testing.simulators import PACED, Fault, FaultPlan, FaultRule, Simulator, simulated_kinds
from enginebay.testing.simulators.faults import FaultSwitch
from enginebay.types import HealthState

NUM_DISTURBANCES = 1000
NUM_AT_ONCE = 32
PROFILE = replace(PACED, tick_s=0.002, max_num_seqs=24, num_blocks=300, max_num_batched_tokens=512)
TIMEOUTS = {"first_byte_timeout_s": 0.5, "idle_timeout_s": 0.5, "connect_timeout_s": 5.0}
FAULTS = FaultPlan(
    rules=[
        FaultRule(fault=fault, probability=0.1, after_events=index % 4)
        for index, fault in enumerate(fault for fault in Fault if fault is not Fault.DEAD)
    ],
    seed=11,
)
"""Of the engine's death all requests at once have enough."""


def _pairs() -> list[tuple[str, str]]:
    """(backend kind, simulated kind) of every adapter that is installed."""
    pairs = [("openai_http", "vllm")]
    for kind in simulated_kinds():
        try:
            find_backend(kind)
        except BackendNotFound:
            continue  # a simulated server that is reached through another kind's options
        pairs.append((kind, kind))
    return pairs


PAIRS = _pairs()
NUM_EACH = math.ceil(NUM_DISTURBANCES / len(PAIRS))


def backend_on(kind: str, url: str, model: str) -> GuardedBackend:
    return get_backend(kind, mode="external", url=url, model=model, options=TIMEOUTS)


def request_of(index: int, num_tokens: int, *, delivery: str = "stream") -> GenerationRequest:
    prompt = Text(f"the quick brown fox {index % 7} " * (1 + index % 5))
    sampling = SamplingParams(max_tokens=num_tokens, temperature=0.5, top_p=0.9)
    return GenerationRequest(request_id=f"r{index}", prompt=prompt, sampling=sampling, delivery=delivery)  # type: ignore[arg-type]


EXPECTED = ("cancelled", "BackendUnavailable", "BackendTimeout")


@dataclass
class Chaos:
    """Requests of which some are cancelled, some meet a fault of the plan, and some a server that goes away."""

    simulator: Simulator
    backend: GuardedBackend
    random: random.Random
    outcomes: Counter[str] = field(default_factory=Counter[str])
    num_begun: int = 0

    @property
    def num_disturbed(self) -> int:
        return self.outcomes.total() - self.outcomes["answered"]

    async def run(self, num_disturbances: int) -> None:
        async def user() -> None:
            while self.num_disturbed < num_disturbances or self._lacks_a_kind(4 * num_disturbances):
                self.num_begun += 1
                # the second half is left alone for long enough that a stalled answer becomes a timeout
                await self._one(self.num_begun, hits_all=self.num_disturbed < num_disturbances // 2)

        await asyncio.gather(*(user() for _ in range(NUM_AT_ONCE)))

    def _lacks_a_kind(self, most: int) -> bool:
        """Which faults the plan brings is drawn: it goes on until each kind was met, but not for ever."""
        return not all(self.outcomes[kind] for kind in EXPECTED) and self.num_disturbed < most

    async def _one(self, index: int, *, hits_all: bool) -> None:
        num_tokens = self.random.choice((1, 8, 40))
        delivery = self.random.choice(("stream", "stream", "final"))
        asking = asyncio.create_task(self._ask(request_of(index, num_tokens, delivery=delivery)))
        await asyncio.sleep(self.random.choice((0.0, 0.0, 0.003, 0.01)))
        if self.random.random() < 0.3:
            asking.cancel()
        elif hits_all and self.random.random() < 0.04:
            await self.random.choice((self._drop, self._restart, self._kill))()
        await asyncio.wait({asking})
        self.outcomes[await _outcome(asking)] += 1

    async def _drop(self) -> None:
        self.simulator.disconnect_all()

    async def _restart(self) -> None:
        await self.simulator.refuse_connections()
        self.simulator.disconnect_all()
        await asyncio.sleep(0.002)
        await self.simulator.accept_connections()

    async def _kill(self) -> None:
        self.simulator.kill_engine()
        await asyncio.sleep(0.002)
        self.simulator.revive_engine()

    async def _ask(self, request: GenerationRequest) -> None:
        async for _ in self.backend.generate(request):
            pass


async def _outcome(asking: asyncio.Task[None]) -> str:
    """Anything but an answer, a typed error or our own cancel is a failure of this test."""
    try:
        await asking
    except asyncio.CancelledError:
        return "cancelled"
    except BackendError as error:
        return type(error).__name__
    return "answered"


def sockets_of_this_process() -> set[tuple[object, ...]]:
    return {(one.fd, one.laddr) for one in psutil.Process().net_connections(kind="tcp")}


@pytest.mark.parametrize(("kind", "simulated"), PAIRS)
def test_after_disturbances_of_every_kind_nothing_is_left(kind, simulated):
    async def main() -> Counter[str]:
        simulator = Simulator(simulated, profile=PROFILE, faults=FAULTS, port=0)
        await simulator.start()
        backend = backend_on(kind, simulator.url, simulator.model)
        await backend.start()
        chaos = Chaos(simulator, backend, random.Random(f"{kind} {simulated}"))
        await chaos.run(NUM_EACH)

        await simulator.until_idle()
        assert backend.inner.num_in_flight == 0  # type: ignore[attr-defined]
        engine = simulator.engine
        assert (engine.num_running, engine.num_waiting, engine.num_used_blocks) == (0, 0, 0)
        simulator.faults = FaultSwitch()
        assert (await backend.health()).state is HealthState.READY
        chunks = [chunk async for chunk in backend.generate(request_of(0, 8))]
        assert chunks[-1].usage is not None
        await backend.aclose()
        await simulator.aclose()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return chaos.outcomes

    before = sockets_of_this_process()
    outcomes = asyncio.run(main())
    assert sockets_of_this_process() == before
    assert outcomes.total() - outcomes["answered"] >= NUM_EACH
    for outcome in EXPECTED:
        assert outcomes[outcome] > 0, outcomes
    assert len(outcomes) >= 5, outcomes


@pytest.mark.parametrize(("kind", "simulated"), PAIRS)
def test_a_killed_process_ends_every_stream_with_a_typed_error(kind, simulated):
    async def main() -> None:
        command = [sys.executable, "-m", "enginebay.cli", "simulate", simulated, "--port", "0"]
        process = await asyncio.create_subprocess_exec(
            *command, "--profile", "paced", "--tick-s", "0.05", stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip().rpartition(": ")[2]
        model = (await process.stdout.readline()).decode().strip().rpartition("serves ")[2]
        backend = backend_on(kind, url, model)
        await backend.start()
        begun = [asyncio.create_task(_read(backend, index)) for index in range(NUM_AT_ONCE)]
        await _until_all_are_in_flight(backend, begun)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        endings = await asyncio.gather(*begun, return_exceptions=True)
        assert all(isinstance(ending, BackendError) for ending in endings), endings
        assert backend.inner.num_in_flight == 0  # type: ignore[attr-defined]
        assert (await backend.health()).state is HealthState.DEAD
        await backend.aclose()

    before, children = sockets_of_this_process(), psutil.Process().children()
    asyncio.run(main())
    assert sockets_of_this_process() == before
    assert psutil.Process().children() == children


async def _until_all_are_in_flight(backend: GuardedBackend, begun: list[asyncio.Task[None]]) -> None:
    while backend.inner.num_in_flight < NUM_AT_ONCE:  # type: ignore[attr-defined]
        done, _ = await asyncio.wait(begun, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # an answer or an error before the kill: the test has gone wrong


async def _read(backend: GuardedBackend, index: int) -> None:
    async for _ in backend.generate(request_of(index, 90)):
        pass
