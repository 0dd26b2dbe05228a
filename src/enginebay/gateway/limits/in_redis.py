"""Accounts that several gateways share: every step is one run of one script in Redis."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError
from structlog.typing import FilteringBoundLogger

from enginebay.errors import StoreUnavailable
from enginebay.gateway.limits.reservations import FOR_EVER, NUM_SLOTS, Allowance, Demand, Hold, Refusal

PREFIX = "enginebay:limits"
LEASE_S = 3600.0
"""Longer than any request may take: after it a hold counts as used, as if its gateway had died."""
_TIMEOUT_S = 2.0
_RETRY_AFTER_S = 1.0
_MAX_BATCH = 200
_IS_UNSEEDED = -2
_MAX_SETTLEMENTS = 100_000


class RedisReservations:
    """One Redis server, or one with replicas behind it; a cluster cannot run a script over several keys.

    All steps go one after another through one connection, as many in a round trip as came during the one before. So
    a settlement is never sent before its reservation, even where the client left while that was under way.
    """

    def __init__(
        self, redis: Redis, *, log: FilteringBoundLogger, lease_s: float = LEASE_S, prefix: str = PREFIX
    ) -> None:
        """redis: ours to close."""
        self._redis, self._log, self._lease_s, self._prefix = redis, log, lease_s, prefix
        self._script = Path(__file__).with_name("reserve_and_settle.lua").read_text(encoding="utf-8")
        self._script_sha: str | None = None
        """Where Redis is known to have the script."""
        self._steps: deque[_Step] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._num_settlements = 0
        self._is_closing = False

    async def reserve(self, hold: Hold) -> Refusal | None:
        answer = await self._send("reserve", hold, [demand.allowance.limit for demand in hold.demands])
        index, *numbers = map(int, answer)
        if not index:
            hold.num_taken.extend(numbers)
            return None
        num_taken, room_after_ms = numbers
        retry_after_s = None if room_after_ms < 0 else room_after_ms / 1000
        return Refusal(hold.demands[index - 1], num_taken, retry_after_s, is_unseeded=room_after_ms == _IS_UNSEEDED)

    def settle(self, hold: Hold, used: Sequence[int]) -> None:
        """Returns at once. What cannot be sent is sent again; beyond 100,000 that wait, the lease ends the hold."""
        if self._num_settlements >= _MAX_SETTLEMENTS:
            return
        self._num_settlements += 1
        self._put(self._step("settle", hold, used))

    async def seed(self, allowance: Allowance, used: int) -> None:
        await self._send("seed", Hold("", [Demand(allowance, used)]), [0])

    async def settled(self) -> None:
        """Waits until everything so far has been sent."""
        if self._sending is not None:
            await asyncio.shield(self._sending)

    async def aclose(self) -> None:
        """Tries once more to send what is not settled yet."""
        self._is_closing = True
        while self._sending is not None and not self._sending.done():
            await self._sending
        await self._redis.aclose()

    async def _send(self, operation: str, hold: Hold, numbers: Sequence[int]) -> Any:
        step = self._step(operation, hold, numbers)
        step.answer = asyncio.get_running_loop().create_future()
        self._put(step)
        return await step.answer

    def _put(self, step: _Step) -> None:
        self._steps.append(step)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        while self._steps:
            batch = [self._steps.popleft() for _ in range(min(len(self._steps), _MAX_BATCH))]
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    answers = await self._run(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
                await self._failed(batch, error)
                continue
            for step, answer in zip(batch, answers, strict=True):
                self._num_settlements -= step.operation == "settle"
                step.tell(answer)

    async def _run(self, batch: Sequence[_Step]) -> list[Any]:
        answers = await self._run_loaded(batch)
        unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # Redis was restarted, or told to forget its scripts: these have not run
            self._script_sha = None
            again = await self._run_loaded([batch[index] for index in unknown])
            for index, answer in zip(unknown, again, strict=True):
                answers[index] = answer
        return answers

    async def _run_loaded(self, batch: Sequence[_Step]) -> list[Any]:
        if self._script_sha is None:
            self._script_sha = str(await self._redis.script_load(self._script))
        async with self._redis.pipeline(transaction=False) as pipeline:
            for step in batch:
                pipeline.evalsha(self._script_sha, len(step.keys), *step.keys, *step.arguments)
            return await pipeline.execute(raise_on_error=False)

    async def _failed(self, batch: Sequence[_Step], error: Exception) -> None:
        """Requests are refused; settlements wait, since sent twice they do no harm."""
        problem = f"Redis cannot be used for limits: {error or type(error).__name__}; is it running?"
        for step in batch:
            step.fail(StoreUnavailable(problem))
        again = [step for step in batch if step.operation == "settle"]
        if not again:
            return
        self._log.error("reservations are not settled", num_waiting=self._num_settlements, reason=problem)
        if self._is_closing:
            self._num_settlements -= len(again)
            return
        self._steps.extendleft(reversed(again))
        if len(self._steps) == len(again):
            await asyncio.sleep(_RETRY_AFTER_S)

    def _step(self, operation: str, hold: Hold, numbers: Sequence[int]) -> _Step:
        step = _Step(operation, [operation, hold.hold_id, int(self._lease_s * 1000)])
        for demand, number in zip(hold.demands, numbers, strict=True):
            account = f"{self._prefix}:{demand.allowance.account}"
            step.keys += [account, f"{account}:leases"]
            step.arguments += [demand.amount, *_milliseconds(demand.allowance), number]
        return step


@dataclass(slots=True)
class _Step:
    operation: str
    arguments: list[str | int]
    keys: list[str] = field(default_factory=list[str])
    answer: asyncio.Future[Any] | None = None
    """None where nobody waits."""

    def tell(self, answer: Any) -> None:
        if isinstance(answer, Exception):
            self.fail(StoreUnavailable(f"Redis cannot be used for limits: {answer}"))
        elif self.answer is not None and not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: StoreUnavailable) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)


def _milliseconds(allowance: Allowance) -> tuple[int, int, int]:
    """Window, slot and retention."""
    retention = int(allowance.retention_s * 1000)
    if allowance.window_s == FOR_EVER:
        return -1, 1, retention
    window = int(allowance.window_s * 1000)
    return window, max(1, window // NUM_SLOTS), retention
