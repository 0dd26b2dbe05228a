"""Accounts that several gateways share: every step is one run of one script in Redis."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.typing import FilteringBoundLogger

from enginebay.errors import StoreUnavailable
from enginebay.gateway.limits.reservations import FOR_EVER, NUM_SLOTS, Allowance, Demand, Hold, Refusal

PREFIX = "enginebay:limits"
LEASE_S = 3600.0
"""Longer than any request may take: after it a hold counts as used, as if its gateway had died."""
_RETRY_AFTER_S = 1.0
_SETTLED_AT_ONCE = 200
_MAX_SETTLEMENTS = 100_000


class RedisReservations:
    """One Redis server, or one with replicas behind it; a cluster cannot run a script over several keys."""

    def __init__(
        self, redis: Redis, *, log: FilteringBoundLogger, lease_s: float = LEASE_S, prefix: str = PREFIX
    ) -> None:
        """redis: ours to close."""
        script = Path(__file__).with_name("reserve_and_settle.lua").read_text(encoding="utf-8")
        self._redis, self._log, self._lease_s, self._prefix = redis, log, lease_s, prefix
        self._script = redis.register_script(script)
        self._reserving: dict[str, asyncio.Task[Any]] = {}
        self._settlements: deque[tuple[Hold, Sequence[int]]] = deque()
        self._settling: asyncio.Task[None] | None = None
        self._is_closing = False

    async def reserve(self, hold: Hold) -> Refusal | None:
        numbers = [demand.allowance.limit for demand in hold.demands]
        task = self._reserving[hold.hold_id] = asyncio.create_task(
            self._reached(self._run("reserve", hold.hold_id, hold.demands, numbers))
        )
        task.add_done_callback(lambda done: self._reserved(hold.hold_id, done))
        # a client that leaves must not leave us ignorant of whether the script ran: the settlement waits for it
        answer = await asyncio.shield(task)
        if not answer:
            return None
        index, num_taken, room_after_ms = map(int, answer)
        retry_after_s = None if room_after_ms < 0 else room_after_ms / 1000
        return Refusal(hold.demands[index - 1], num_taken, retry_after_s)

    def settle(self, hold: Hold, used: Sequence[int]) -> None:
        """Returns at once. What cannot be sent is sent again; beyond 100,000 that wait, the lease ends the hold."""
        if len(self._settlements) >= _MAX_SETTLEMENTS:
            return
        self._settlements.append((hold, used))
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle_all())

    async def seed(self, allowance: Allowance, used: int) -> None:
        await self._reached(self._run("seed", "", [Demand(allowance, used)], [0]))

    async def aclose(self) -> None:
        """Sends what is not settled yet, once."""
        self._is_closing = True
        if self._settling is not None:
            await self._settling
        await self._redis.aclose()

    def _reserved(self, hold_id: str, task: asyncio.Task[Any]) -> None:
        del self._reserving[hold_id]
        if not task.cancelled():
            task.exception()  # read, although the request may have gone

    async def _settle_all(self) -> None:
        while self._settlements:
            batch = [self._settlements[index] for index in range(min(len(self._settlements), _SETTLED_AT_ONCE))]
            pending = [task for hold, _ in batch if (task := self._reserving.get(hold.hold_id)) is not None]
            if pending:
                await asyncio.wait(pending)
            try:
                await self._reached(self._settle_together(batch))
            except StoreUnavailable as error:
                self._log.error("reservations are not settled", num_waiting=len(self._settlements), reason=str(error))
                if self._is_closing:
                    return
                await asyncio.sleep(_RETRY_AFTER_S)
                continue
            for _ in batch:
                self._settlements.popleft()

    async def _settle_together(self, batch: Sequence[tuple[Hold, Sequence[int]]]) -> None:
        """One round trip. Sent twice it does no harm: the script settles a hold once."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for hold, used in batch:
                await self._run("settle", hold.hold_id, hold.demands, used, client=pipeline)
            await pipeline.execute()

    async def _run(
        self, operation: str, hold_id: str, demands: Sequence[Demand], numbers: Sequence[int], *, client: Any = None
    ) -> Any:
        keys = [key for demand in demands for key in self._keys(demand.allowance)]
        arguments: list[str | int] = [operation, hold_id, int(self._lease_s * 1000)]
        for demand, number in zip(demands, numbers, strict=True):
            arguments += [demand.amount, *_milliseconds(demand.allowance), number]
        return await self._script(keys=keys, args=arguments, client=client)

    def _keys(self, allowance: Allowance) -> tuple[str, str]:
        account = f"{self._prefix}:{allowance.account}"
        return account, f"{account}:leases"

    async def _reached(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await work
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"Redis cannot be used for limits: {error}; is it running?") from error


def _milliseconds(allowance: Allowance) -> tuple[int, int, int]:
    """Window, slot and retention."""
    retention = int(allowance.retention_s * 1000)
    if allowance.window_s == FOR_EVER:
        return -1, 1, retention
    window = int(allowance.window_s * 1000)
    return window, max(1, window // NUM_SLOTS), retention
