"""The whole load from this process: what is enough for nearly every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.loadtest.client_health import ProcessFigures, ProcessWatch
from enginebay.loadtest.garbage import young_garbage_only
from enginebay.loadtest.opening import num_connections, open_connections
from enginebay.loadtest.plan import Load, PlannedRequest
from enginebay.loadtest.records import Record
from enginebay.loadtest.runner import Runner
from enginebay.loadtest.sent.log import SendLog
from enginebay.loadtest.sent.sent import Sent


class SingleProcess:
    """One run, with an eye on how this process fares."""

    def __init__(
        self,
        backend: Backend,
        *,
        clock: Clock,
        on_record: Callable[[Record], None],
        request_timeout_s: float | None = None,
        run_id: str = "run",
        on_begin: Callable[[], None] = lambda: None,
    ) -> None:
        """on_begin: when the load is about to begin."""
        self._on_begin = on_begin
        self._backend, self._clock = backend, clock
        self._runner = Runner(
            backend, clock=clock, on_record=on_record, request_timeout_s=request_timeout_s, run_id=run_id
        )
        self._watch = ProcessWatch(clock)
        self._log = SendLog()

    @property
    def started_at(self) -> float:
        return self._runner.started_at

    @property
    def num_in_flight(self) -> int:
        return self._runner.num_in_flight

    @property
    def figures(self) -> Sequence[ProcessFigures]:
        return (self._watch.figures,)

    @property
    def losses(self) -> Sequence[str]:
        """What is measured here cannot get lost on the way."""
        return ()

    @property
    def sent(self) -> list[Sent] | None:
        """Read and hashed at this call; None where the backend has no wire to listen to."""
        return self._log.read(started_at=self.started_at) if self._log.is_kept else None

    async def run(self, requests: Sequence[PlannedRequest], load: Load) -> None:
        """`replay`, then `finish`."""
        try:
            await self.replay(requests, load)
        finally:
            await self.finish()

    async def replay(self, requests: Sequence[PlannedRequest], load: Load) -> None:
        """Return when the last answer is there; the records of many come with `finish` only."""
        self._runner.prepare(requests)
        await open_connections(self._backend, num_connections(requests, load))
        self._on_begin()
        with young_garbage_only():
            async with self._watch:
                with self._log.listening(self._backend):
                    await self._runner.replay(load, started_at=self._clock.now())

    async def finish(self) -> None:
        """Decode what is left, when nothing is measured any more; also after a replay that was cancelled."""
        with young_garbage_only(collects_before=False):
            self._runner.finish()
