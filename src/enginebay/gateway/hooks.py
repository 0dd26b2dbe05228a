"""Where features join the path of a call: before routing, before the engine, on each chunk, and at the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from structlog.typing import FilteringBoundLogger

from enginebay.gateway.call import Attempt, Call, Outcome
from enginebay.types import GenerationChunk


class GatewayHook:
    """Override what is needed: a method that is not overridden costs nothing.

    Everything runs on the server's event loop, one call beside another: what must not interleave may not await.
    """

    async def before_routing(self, call: Call) -> None:
        """May raise a RequestError or BackendOverloaded, which refuses the call."""

    def before_engine(self, call: Call, attempt: Attempt) -> None:
        """Once for each try of each choice on a replica, before anything is sent to it."""

    def on_chunk(self, call: Call, chunk: GenerationChunk) -> None:
        """Each chunk of each choice, before it is sent to the client. An error raised here fails the call."""

    def at_end(self, call: Call, outcome: Outcome) -> None:
        """Exactly once for each call, before the last byte of its answer; it may not fail.

        It comes to each hook whose `before_routing` was entered, also where that raised or was cancelled, and to each
        hook that has none.
        """


class Hooks:
    """Only the methods that are overridden, in the order of the hooks."""

    __slots__ = ("_at_end", "_before_routing", "_log", "before_engine", "on_chunk")

    def __init__(self, hooks: Sequence[GatewayHook], log: FilteringBoundLogger) -> None:
        self._log = log
        self.become(hooks)

    def become(self, hooks: Sequence[GatewayHook]) -> None:
        """Others from now on; a call that has begun goes on to its end with those that it began with."""
        self._before_routing = [hook.before_routing for hook in hooks if _overrides(hook, "before_routing")]
        self.before_engine: Sequence[Callable[[Call, Attempt], None]] = tuple(
            hook.before_engine for hook in hooks if _overrides(hook, "before_engine")
        )
        self.on_chunk: Sequence[Callable[[Call, GenerationChunk], None]] = tuple(
            hook.on_chunk for hook in hooks if _overrides(hook, "on_chunk")
        )
        self._at_end: list[tuple[int, Callable[[Call, Outcome], None]]] = []
        num_before = 0
        for hook in hooks:
            num_before += _overrides(hook, "before_routing")
            if _overrides(hook, "at_end"):
                needed = num_before if _overrides(hook, "before_routing") else 0
                self._at_end.append((needed, hook.at_end))

    def entering(self) -> Entered:
        """One for each call."""
        return Entered(self._before_routing, self._at_end, self._log)


class Entered:
    """Which hooks one call has come to, so that each of them hears of its end, once."""

    __slots__ = ("_at_end", "_before_routing", "_has_ended", "_log", "_num_entered")

    def __init__(
        self,
        before_routing: Sequence[Callable[[Call], Awaitable[None]]],
        at_end: Sequence[tuple[int, Callable[[Call, Outcome], None]]],
        log: FilteringBoundLogger,
    ) -> None:
        self._before_routing, self._at_end, self._log = before_routing, at_end, log
        self._num_entered = 0
        self._has_ended = False

    async def before_routing(self, call: Call) -> None:
        for before_routing in self._before_routing:
            self._num_entered += 1
            await before_routing(call)

    def at_end(self, call: Call, outcome: Outcome) -> None:
        """Only the first time; a hook that fails all the same is logged and does not keep it from the next."""
        if self._has_ended:
            return
        self._has_ended = True
        for num_needed, at_end in self._at_end:
            if self._num_entered < num_needed:
                continue
            try:
                at_end(call, outcome)
            except Exception as error:  # noqa: BLE001 - a bug of a hook must not take the answer from the client
                self._log.error("hook failed at the end of a call", request_id=call.request_id, exc_info=error)


def _overrides(hook: GatewayHook, method: str) -> bool:
    return getattr(type(hook), method) is not getattr(GatewayHook, method)
