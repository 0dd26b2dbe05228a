"""What health says of a TGI that does not answer."""

from __future__ import annotations

import pytest

from enginebay.errors import BackendError, BackendTimeout, BackendUnavailable
from enginebay.testing.told_http import health_states
from enginebay.types import HealthState
from enginebay_tgi.api import TgiApi

SLOW, GONE = BackendTimeout("no answer within 5 s"), BackendUnavailable("refused")


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ([SLOW], HealthState.LOADING), ([GONE], HealthState.LOADING), ([200, SLOW], HealthState.DEGRADED),
        ([200, GONE], HealthState.DEAD), ([200, SLOW, 200], HealthState.READY),
    ],
)  # fmt: skip
def test_a_server_that_answered_before_is_slow_until_it_no_longer_listens(
    told: list[int | BackendError], state: HealthState
) -> None:
    assert health_states(TgiApi(name="tgi"), *told)[-1] is state
