"""A client without a server, for tests of an `EngineApi`: it answers what it is told to."""

from __future__ import annotations

import asyncio
from typing import cast

from enginebay.backends.http_engine.api import EngineApi
from enginebay.errors import BackendError
from enginebay.types import HealthState
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpResponse


class ToldHttp:
    """Answers one request after the other, whatever is asked: with a status, a response, or by raising an error."""

    def __init__(self, *told: int | HttpResponse | BackendError) -> None:
        self._told = list(told)

    async def request(self, method: str, path: str, **_: object) -> HttpResponse:
        told = self._told.pop(0)
        if isinstance(told, BackendError):
            raise told
        return HttpResponse(told, {}, b"", 0.0) if isinstance(told, int) else told


def health_states(api: EngineApi, *told: int | HttpResponse | BackendError) -> list[HealthState]:
    """What one API says of a server that is told these, in their order; for an API that asks once for its health."""

    async def main() -> list[HealthState]:
        http = cast(HttpClient, ToldHttp(*told))
        return [(await api.health(http)).state for _ in told]

    return asyncio.run(main())
