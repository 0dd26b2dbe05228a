"""One client process of several: replays its share of the plan and tells its records as they come."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from enginebay.backends.worker.channel import ChildChannel, ParentChannel
from enginebay.clock import MonotonicClock
from enginebay.errors import EngineBayError
from enginebay.event_loop import new_event_loop
from enginebay.guard import GuardedBackend
from enginebay.loadtest.client_health import ProcessWatch
from enginebay.loadtest.fleet_messages import (
    Begin,
    Ended,
    Failed,
    Job,
    Reach,
    Ready,
    RecordedRaw,
    Replayed,
    SentPart,
    ToWorker,
    decode_to_worker,
    encode,
)
from enginebay.loadtest.garbage import young_garbage_only
from enginebay.loadtest.opening import open_connections
from enginebay.loadtest.records import Record
from enginebay.loadtest.runner import Runner
from enginebay.loadtest.sent.log import SendLog
from enginebay.plugins import get_backend

FLUSH_S = 0.25
SENT_PER_MESSAGE = 500


def work(channel: ChildChannel) -> None:
    """The child (`backends.worker`). It ends when its parent closes the channel, or has gone."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_work(channel))


def reached(reach: Reach) -> GuardedBackend:
    """Not started yet."""
    return get_backend(
        reach.kind,
        name=reach.name,
        model=reach.model,
        mode="external",
        url=reach.url,
        options=reach.options,
        clock=MonotonicClock(),
    )


async def _work(channel: ChildChannel) -> None:
    inbox: asyncio.Queue[ToWorker | None] = asyncio.Queue()
    parent = ParentChannel(
        on_frame=lambda frame: inbox.put_nowait(decode_to_worker(frame)), on_closed=lambda: inbox.put_nowait(None)
    )
    await asyncio.get_running_loop().create_unix_connection(lambda: parent, sock=channel.release())
    job = await inbox.get()
    if isinstance(job, Job):
        try:
            await _Share(job, inbox=inbox, parent=parent).run()
        except EngineBayError as error:
            parent.send(encode(Failed(f"{type(error).__name__}: {error}")))
        while await inbox.get() is not None:
            pass  # until the parent has read everything and closes


class _Share:
    def __init__(self, job: Job, *, inbox: asyncio.Queue[ToWorker | None], parent: ParentChannel) -> None:
        self._job, self._inbox, self._parent = job, inbox, parent
        self._clock = MonotonicClock()
        self._encoded: list[msgspec.Raw] = []

    async def run(self) -> None:
        job = self._job
        async with reached(job.reach) as backend:
            runner = Runner(
                backend,
                clock=self._clock,
                on_record=self._keep,
                request_timeout_s=job.request_timeout_s,
                run_id=job.run_id,
            )
            runner.prepare(job.requests)
            await open_connections(backend, job.num_connections)
            self._parent.send(encode(Ready()))
            begin = await self._inbox.get()
            if not isinstance(begin, Begin):
                return
            log = SendLog()
            with young_garbage_only():
                async with ProcessWatch(self._clock) as watch:
                    with log.listening(backend):
                        await self._replay(runner, begin)
                self._parent.send(encode(Replayed()))
            await self._hand_over(runner)
            sent = log.read(started_at=begin.at)
            for first in range(0, len(sent), SENT_PER_MESSAGE):
                self._parent.send(encode(SentPart(sent[first : first + SENT_PER_MESSAGE])))
            self._parent.send(encode(Ended(watch.figures)))

    async def _replay(self, runner: Runner, begin: Begin) -> None:
        """Until all is done, or the parent asks to stop or closes the channel."""
        replaying = asyncio.create_task(runner.replay(self._job.load, started_at=begin.at))
        stopping = asyncio.create_task(self._inbox.get())
        flushing = asyncio.create_task(self._flush_now_and_then(runner))
        try:
            await asyncio.wait({replaying, stopping}, return_when=asyncio.FIRST_COMPLETED)
            replaying.cancel()
            with suppress(asyncio.CancelledError):
                await replaying
        finally:
            stopping.cancel()
            flushing.cancel()
            await asyncio.wait({stopping, flushing})

    async def _hand_over(self, runner: Runner) -> None:
        """What takes long is told bit by bit, so that the parent sees that it goes on."""
        flushing = asyncio.create_task(self._flush_now_and_then(runner))
        try:
            with young_garbage_only(collects_before=False):
                await runner.finish_in_turns()
        finally:
            flushing.cancel()
            await asyncio.wait({flushing})
        self._flush(runner)

    async def _flush_now_and_then(self, runner: Runner) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._flush(runner)

    def _keep(self, record: Record) -> None:
        self._encoded.append(msgspec.Raw(encode(record)))

    def _flush(self, runner: Runner) -> None:
        records, self._encoded = self._encoded, []
        self._parent.send(encode(RecordedRaw(records=records, num_in_flight=runner.num_in_flight)))
