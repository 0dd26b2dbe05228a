"""What lives as long as the server, in the order in which it begins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


class EndsWith:
    """Something that has only an end."""

    def __init__(self, end: Callable[[], Awaitable[object]]) -> None:
        self._end = end

    async def begin(self) -> None:
        """It has begun already."""

    async def end(self) -> None:
        await self._end()
