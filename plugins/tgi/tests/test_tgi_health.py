"""What health says of a TGI that does not answer."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from enginebay.errors import BackendError, BackendTimeout, BackendUnavailable
from enginebay.types import HealthState
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpResponse
from enginebay_tgi.api import TgiApi


class Answers:
    """Stands for the client: raises or answers what it is told to, one after the other."""

    def __init__(self, *told: HttpResponse | BackendError) -> None:
        self._told = list(told)

    async def request(self, method: str, path: str, **_: object) -> HttpResponse:
        told = self._told.pop(0)
        if isinstance(told, BackendError):
            raise told
        return told


READY = HttpResponse(200, {}, b"", 0.0)
SLOW, GONE = BackendTimeout("no answer within 5 s"), BackendUnavailable("refused")


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ([SLOW], HealthState.LOADING), ([GONE], HealthState.LOADING), ([READY, SLOW], HealthState.DEGRADED),
        ([READY, GONE], HealthState.DEAD), ([READY, SLOW, READY], HealthState.READY),
    ],
)  # fmt: skip
def test_a_server_that_answered_before_is_slow_until_it_no_longer_listens(
    told: list[HttpResponse | BackendError], state: HealthState
) -> None:
    async def main() -> HealthState:
        api, http = TgiApi(name="tgi"), cast(HttpClient, Answers(*told))
        return [await api.health(http) for _ in told][-1].state

    assert asyncio.run(main()) is state
