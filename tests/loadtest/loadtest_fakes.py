"""A clock on which time passes only by waiting, and a scripted backend that waits on it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from enginebay.backend import Backend
from enginebay.errors import EngineBayError
from enginebay.guard import GuardedBackend
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.plan import Load, Plan, PlannedLoad, PlannedRequest
from enginebay.loadtest.records import Record, RunKey
from enginebay.loadtest.result import Run
from enginebay.types import (
    BackendInfo,
    Capabilities,
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    SamplingParams,
    Usage,
)

ENVIRONMENT = Environment(
    python="CPython 3.11.0",
    operating_system="Linux 6 x86_64",
    cpu="Some CPU",
    num_cores=2,
    memory_bytes=8 * 2**30,
    packages={"enginebay": "0.1.0"},
)


class VirtualClock:
    """Jumps to the next sleeper once nothing else has anything to do."""

    def __init__(self, at: float = 1000.0) -> None:
        self._at = at
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._num_sleeps = 0
        self._advances_on: asyncio.AbstractEventLoop | None = None

    def now(self) -> float:
        return self._at

    def pass_by(self, seconds: float) -> None:
        """As while something is computed, without anybody waiting."""
        self._at += seconds

    async def sleep_until(self, instant: float) -> None:
        if instant <= self._at:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._num_sleeps += 1
        heapq.heappush(self._sleepers, (instant, self._num_sleeps, woken))
        self._advance_when_idle()
        await woken

    def _advance_when_idle(self) -> None:
        loop = asyncio.get_running_loop()
        if self._advances_on is not loop:  # a loop that was closed left it unfinished
            self._advances_on = loop
            self._wait_for_idle(num_turns=30)

    def _wait_for_idle(self, num_turns: int) -> None:
        loop = asyncio.get_running_loop()
        if num_turns:
            loop.call_soon(self._wait_for_idle, num_turns - 1)
            return
        self._advances_on = None
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        if self._sleepers:
            instant, _, woken = heapq.heappop(self._sleepers)
            self._at = max(self._at, instant)
            woken.set_result(None)
            if self._sleepers:
                self._advance_when_idle()


@dataclass
class Answer:
    """First token after `ttft_s`, the following every `gap_s`; `error` is raised instead of the last chunk."""

    ttft_s: float = 0.1
    gap_s: float = 0.01
    error: EngineBayError | None = None


@dataclass
class ScriptedBackend:
    clock: VirtualClock
    answer: Callable[[GenerationRequest], Answer] = lambda request: Answer()
    stats_extra: Callable[[], dict[str, float]] = dict
    simulated: bool = False
    features: frozenset[Feature] = frozenset(Feature)
    max_model_len: int | None = None
    effective_settings: dict[str, object] = field(default_factory=dict)
    seen: list[tuple[float, GenerationRequest]] = field(default_factory=list)
    num_running: int = 0
    is_closed: bool = False

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(
            kind="scripted",
            name="scripted",
            model="m",
            capabilities=Capabilities(features=self.features),
            simulated=self.simulated,
            max_model_len=self.max_model_len,
            effective_settings=self.effective_settings,
        )

    async def start(self) -> None: ...

    async def health(self) -> Health:
        return Health(HealthState.READY)

    async def stats(self) -> EngineStats:
        return EngineStats(requests_running=self.num_running, extra=self.stats_extra())

    async def aclose(self) -> None:
        self.is_closed = True

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        at = self.clock.now()
        self.seen.append((at, request))
        answer = self.answer(request)
        self.num_running += 1
        try:
            yield GenerationChunk(received_at=at)  # a role and nothing else
            num_tokens = request.sampling.max_tokens
            for number in range(num_tokens):
                await self.clock.sleep_until(at + answer.ttft_s + number * answer.gap_s)
                if answer.error and number == num_tokens - 1:
                    raise answer.error
                yield GenerationChunk(text="x", num_tokens=1, received_at=self.clock.now())
            yield GenerationChunk(
                num_tokens=0,
                received_at=self.clock.now(),
                usage=Usage(num_prompt_tokens=3, num_output_tokens=num_tokens),
                finish_reason=FinishReason.LENGTH,
            )
        finally:
            self.num_running -= 1


async def started(backend: Backend) -> GuardedBackend:
    guarded = GuardedBackend(backend)
    await guarded.start()
    return guarded


@dataclass
class SilentWatcher:
    phases: list[tuple[str, str]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    on_record: Callable[[Record], None] = lambda record: None

    def phase(self, label: str, what: str) -> None:
        self.phases.append((label, what))

    def run_begins(self, run: RunKey, num_requests: int) -> None: ...

    def record(self, run: RunKey, record: Record) -> None:
        self.records.append(record)
        self.on_record(record)

    def run_ends(self, run: Run) -> None:
        self.runs.append(run)


def planned(index: int, *, max_tokens: int = 2, offset_s: float | None = None) -> PlannedRequest:
    return PlannedRequest(
        index=index,
        text=f"{index} words here",
        num_prompt_tokens=3,
        offset_s=offset_s,
        sampling=SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True),
    )


def small_plan(
    num_requests: int = 4, *, loads: Sequence[Load] = (Load(users=2),), num_warmup: int = 0, max_tokens: int = 2
) -> Plan:
    return Plan(
        model="m",
        workload="a few words",
        seed=0,
        loads=tuple(
            PlannedLoad(
                load=load,
                warmup=tuple(planned(1000 + index) for index in range(num_warmup)),
                requests=tuple(planned(index, max_tokens=max_tokens) for index in range(num_requests)),
            )
            for load in loads
        ),
    )
