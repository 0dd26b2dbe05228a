"""The outputs of one request, on the event loop, as the engine's process sends them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from enginebay.engine.request import EngineOutput
from enginebay.errors import BackendError, DeadlineExceeded, EngineBayError, EngineStepFailed


class EngineStream(AsyncIterator[tuple[EngineOutput, float]]):
    """Yields each output with the instant at which it arrived. One consumer.

    Ends after the output with a finish_reason; raises EngineStepFailed or DeadlineExceeded where that is `error`, and
    EngineDied when the process has gone. Whoever stops reading earlier calls `cancel`.
    """

    def __init__(self, request_id: str, *, name: str, on_cancel: Callable[[EngineStream], None]) -> None:
        self.request_id = request_id
        self.num_unread_tokens = 0
        self._name, self._on_cancel = name, on_cancel
        self._arrived: deque[tuple[EngineOutput, float]] = deque()
        self._error: BackendError | None = None
        self._is_ended = False
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> EngineStream:
        return self

    async def __anext__(self) -> tuple[EngineOutput, float]:
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if self._is_ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        output, received_at = self._arrived.popleft()
        self.num_unread_tokens -= len(output.token_ids)
        if output.finish_reason == "error":
            raise failure(output, backend=self._name)
        return output, received_at

    def cancel(self) -> None:
        """Synchronous and idempotent; nothing is sent for a stream that has ended. Unread outputs are dropped."""
        self._on_cancel(self)
        self._arrived.clear()
        self.num_unread_tokens = 0
        self._is_ended = True
        self._wake()

    def push(self, output: EngineOutput, received_at: float) -> None:
        """For the process alone."""
        self._arrived.append((output, received_at))
        self.num_unread_tokens += len(output.token_ids)
        self._is_ended = output.finish_reason is not None
        self._wake()

    def fail(self, error: BackendError) -> None:
        """For the process alone. What has arrived is still read before it."""
        self._error = error
        self._is_ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def failure(output: EngineOutput, *, backend: str) -> EngineBayError:
    """What an output with an error is to whoever asked."""
    problem = output.error or "the engine gave no reason"
    if output.error_kind == "deadline":
        return DeadlineExceeded(problem, field="deadline_at")
    return EngineStepFailed(problem, backend=backend)
