"""Starts the backend beside the server, so that the server answers about it while it loads."""

from __future__ import annotations

import asyncio

from structlog.typing import FilteringBoundLogger

from enginebay.backend import Backend
from enginebay.clock import Clock, MonotonicClock
from enginebay.errors import BackendError, EngineBayError, NotStarted
from enginebay.types import Health, HealthState

HEALTH_TIMEOUT_S = 2.0
WATCH_PERIOD_S = 1.0


class BackendLife:
    """From the server's start to its end: begin, (loading, then ready or failed), end."""

    def __init__(self, backend: Backend, log: FilteringBoundLogger, *, clock: Clock | None = None) -> None:
        self._backend, self._log, self._clock = backend, log, clock or MonotonicClock()
        self._starting: asyncio.Task[None] | None = None
        self._failure: EngineBayError | None = None
        self.is_ready = False

    def begin(self) -> None:
        self._starting = asyncio.create_task(self._start())

    async def _start(self) -> None:
        try:
            await self._backend.start()
        except EngineBayError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - kept, and told by health and every route
            self._failure = BackendError(f"start failed: {error!r}", backend=self._backend.info.name)
            self._failure.__cause__ = error
        if self._failure is not None:
            self._log.error("backend failed to start", backend=self._backend.info.name, reason=str(self._failure))
            return
        self.is_ready = True
        self._log.info("backend ready", backend=self._backend.info.name)

    async def wait_until_ready(self) -> None:
        """Raises what made the start fail."""
        if self._starting is not None:
            await asyncio.shield(self._starting)
        self.demand_ready()

    def demand_ready(self) -> None:
        if self.is_ready:
            return
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        raise NotStarted("the model is still loading: try again soon", backend=self._backend.info.name)

    async def health(self) -> Health:
        """Within HEALTH_TIMEOUT_S, whatever the backend does."""
        if self._failure is not None:
            return Health(HealthState.DEAD, f"start failed: {str(self._failure).splitlines()[0]}")
        if not self.is_ready:
            return Health(HealthState.LOADING, "the model is loading")
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                return await self._backend.health()
        except TimeoutError:
            return Health(HealthState.DEGRADED, f"the backend did not tell its health within {HEALTH_TIMEOUT_S:g} s")
        except EngineBayError as error:
            return Health(HealthState.DEAD, str(error).splitlines()[0])

    async def wait_until_dead(self) -> str:
        """The reason, once the backend is dead for good; a server elsewhere may come back. Asks its health only."""
        while not (health := await self.health()).is_final:
            await self._clock.sleep_until(self._clock.now() + WATCH_PERIOD_S)
        return health.reason

    async def end(self) -> None:
        self.is_ready = False
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._backend.aclose()
