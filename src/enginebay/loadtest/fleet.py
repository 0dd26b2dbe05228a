"""Several processes as one client, for loads that one event loop cannot make.

Arrivals are dealt, never drawn again. All processes of a machine share one monotonic clock, so that one instant
begins the run for all of them and their records belong together as they are.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence

from enginebay.backends.worker.process import WorkerProcess
from enginebay.clock import Clock
from enginebay.errors import LoadTestError
from enginebay.loadtest.arrivals.deal import deal, deal_users
from enginebay.loadtest.client_health import ProcessFigures
from enginebay.loadtest.fleet_messages import (
    Begin,
    Ended,
    Failed,
    Job,
    Reach,
    Ready,
    Recorded,
    Replayed,
    SentPart,
    Stop,
    ToWorker,
    decode_from_worker,
    encode,
)
from enginebay.loadtest.opening import num_connections, peak_rate
from enginebay.loadtest.plan import Load, PlannedRequest
from enginebay.loadtest.records import Record
from enginebay.loadtest.sent.sent import Sent

MAX_RATE_PER_PROCESS = 1000.0
MAX_USERS_PER_PROCESS = 512
BEGINS_AFTER_S = 0.2
"""From the order to begin until the first instant of the run: every process has heard of it by then."""
SILENT_S = 60.0
"""A process that has answers to decode tells of it all the time. One that is silent for so long has come to a stop, and
what it has not told yet is lost."""
STOP_S = 5.0
"""How long a process may take to end that has told everything."""


def num_processes_for(requests: Sequence[PlannedRequest], load: Load, *, num_cores: int) -> int:
    """As few as can make the load, and one core stays free; what the engine needs on this machine nobody knows here."""
    if load.users is not None:
        wanted = math.ceil(load.users / MAX_USERS_PER_PROCESS)
    else:
        wanted = math.ceil(peak_rate(requests) / MAX_RATE_PER_PROCESS)
    return max(1, min(wanted, num_cores - 1))


class Fleet:
    """One run. `on_record` gets records soon after their requests end, also when the run is cancelled."""

    def __init__(
        self,
        reach: Reach,
        *,
        num_processes: int,
        clock: Clock,
        on_record: Callable[[Record], None],
        request_timeout_s: float | None = None,
        run_id: str = "run",
        on_begin: Callable[[], None] = lambda: None,
        silent_s: float = SILENT_S,
    ) -> None:
        """clock: the monotonic one of the machine; no other is shared. on_begin: when the load is about to begin."""
        self._on_begin, self._silent_s = on_begin, silent_s
        self._reach, self._num_processes, self._clock = reach, num_processes, clock
        self._on_record, self._request_timeout_s, self._run_id = on_record, request_timeout_s, run_id
        self._members: list[_Member] = []
        self.started_at = clock.now()

    @property
    def num_in_flight(self) -> int:
        return sum(member.num_in_flight for member in self._members)

    @property
    def figures(self) -> list[ProcessFigures]:
        """Of the processes that came to an end, also when the run was cancelled."""
        return [member.figures for member in self._members if member.figures is not None]

    @property
    def sent(self) -> list[Sent] | None:
        """By all processes, in the order of sending."""
        return sorted((one for member in self._members for one in member.sent), key=lambda one: one.at)

    @property
    def losses(self) -> list[str]:
        """Of each process that could not be waited for any longer: what it has not told."""
        return [member.loss for member in self._members if member.loss]

    async def run(self, requests: Sequence[PlannedRequest], load: Load) -> None:
        """`replay`, then `finish`."""
        try:
            await self.replay(requests, load)
        finally:
            await self.finish()

    async def replay(self, requests: Sequence[PlannedRequest], load: Load) -> None:
        """Return when the last answer is there; the records of many come with `finish` only.

        Raises LoadTestError with the cause when a process dies.
        """
        for share, own_load in self._shares(requests, load):
            self._members.append(self._member(share, own_load))
        try:
            await _all(member.launch() for member in self._members)
            await _all(member.until_ready() for member in self._members)
            self._on_begin()
            self.started_at = self._clock.now() + BEGINS_AFTER_S
            for member in self._members:
                member.begin(self.started_at)
            await _all(member.until_replayed() for member in self._members)
        finally:
            for member in self._members:
                member.ask_to_stop()

    async def finish(self) -> None:
        """Wait for what the processes still have to tell, and for their end; also when this is cancelled."""
        await _to_the_end(self._stop())

    def _shares(self, requests: Sequence[PlannedRequest], load: Load) -> list[tuple[list[PlannedRequest], Load]]:
        if load.users is None:
            shares = deal(requests, self._num_processes)
            loads = [load] * len(shares)
        else:
            # Of no more processes than users: a share without a user would never be sent.
            shares = deal(requests, min(self._num_processes, load.users))
            loads = [Load(users=users) for users in deal_users(load.users, len(shares))]
        return [(share, own) for share, own in zip(shares, loads, strict=True) if share]

    def _member(self, requests: Sequence[PlannedRequest], load: Load) -> _Member:
        job = Job(
            reach=self._reach,
            requests=tuple(requests),
            load=load,
            run_id=self._run_id,
            request_timeout_s=self._request_timeout_s,
            num_connections=num_connections(requests, load),
        )
        name = f"client process {len(self._members) + 1}"
        return _Member(job, name=name, on_record=self._on_record, silent_s=self._silent_s)

    async def _stop(self) -> None:
        await asyncio.gather(*(member.stop() for member in self._members))


class _Member:
    """The parent's side of one process."""

    def __init__(self, job: Job, *, name: str, on_record: Callable[[Record], None], silent_s: float) -> None:
        self.num_in_flight = 0
        self.loss = ""
        """Why records of its share may be missing, in words."""
        self._silent_s, self._num_told = silent_s, 0
        self._heard = asyncio.Event()
        self.figures: ProcessFigures | None = None
        self.sent: list[Sent] = []
        self._job, self._name, self._on_record = job, name, on_record
        self._has_begun = False
        self._problem: LoadTestError | None = None
        self._ready, self._replayed, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._process = WorkerProcess(
            "enginebay.loadtest.fleet_worker:work", name=name, on_frame=self._on_frame, on_ended=self._on_ended
        )

    async def launch(self) -> None:
        await self._process.launch()
        self.tell(self._job)

    async def until_ready(self) -> None:
        await self._ready.wait()
        self.demand_sound()

    async def until_replayed(self) -> None:
        await self._replayed.wait()
        self.demand_sound()

    def begin(self, at: float) -> None:
        self._has_begun = True
        self.tell(Begin(at))

    def tell(self, message: ToWorker) -> None:
        self._process.send(encode(message))

    def ask_to_stop(self) -> None:
        """What is on its way is given up, and recorded as interrupted."""
        if self._has_begun and not self._replayed.is_set():
            self.tell(Stop())

    async def stop(self) -> None:
        """Hear all that it has measured, however long that takes, then end it."""
        if self._has_begun and not await self._has_told_all():
            self._lose(f"told nothing for {self._silent_s:g} s and was ended")
        await self._process.stop(grace_s=STOP_S)

    async def _has_told_all(self) -> bool:
        while not self._ended.is_set():
            self._heard.clear()
            try:
                async with asyncio.timeout(self._silent_s):
                    await self._heard.wait()
            except TimeoutError:
                return False
        return True

    def _lose(self, why: str, *, more: str = "") -> None:
        num_requests = len(self._job.requests)
        self.loss = f"{self._name} {why}: it had told {self._num_told} of the {num_requests} requests of its share"
        self._fail(f"the load test's {self.loss}{more}")

    def demand_sound(self) -> None:
        if self._problem is not None:
            raise self._problem

    def _on_frame(self, frame: bytes) -> None:
        self._heard.set()
        match decode_from_worker(frame):
            case Ready():
                self._ready.set()
            case Recorded() as recorded:
                self.num_in_flight = recorded.num_in_flight
                self._num_told += len(recorded.records)
                for record in recorded.records:
                    self._on_record(record)
            case Replayed():
                self.num_in_flight = 0
                self._replayed.set()
            case SentPart(sent):
                self.sent += sent
            case Ended() as ended:
                self.figures = ended.figures
                self._ended.set()
            case Failed(problem) if self._has_begun:
                self._lose(f"cannot do its part: {problem}")
            case Failed(problem):
                self._fail(f"the load test's {self._name} cannot do its part: {problem}")

    def _on_ended(self) -> None:
        if self._ended.is_set():
            return
        lines = "".join(f"\n  {line}" for line in self._process.log_tail()[-8:])
        self._lose(f"{self._process.how_it_ended()} in the middle of a run", more=lines)

    def _fail(self, problem: str) -> None:
        self.num_in_flight = 0
        self._problem = self._problem or LoadTestError(problem)
        for event in (self._ready, self._replayed, self._ended, self._heard):
            event.set()


async def _all(waits: Iterable[Coroutine[None, None, None]]) -> None:
    """The first failure at once, whoever waits besides."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _to_the_end(stopping: Coroutine[None, None, None]) -> None:
    """Also when this is cancelled meanwhile: no process is left behind."""
    task = asyncio.ensure_future(stopping)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
