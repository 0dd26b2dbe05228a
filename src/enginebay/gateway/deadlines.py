"""Requests get the deadline that their client gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from enginebay.errors import UnsupportedFeature
from enginebay.gateway.exchange import Exchange
from enginebay.types import BackendInfo, Feature, GenerationRequest
from enginebay.wire.deadline_header import DEADLINE_HEADER, time_left_s


def with_deadline(
    requests: Sequence[GenerationRequest], exchange: Exchange, info: BackendInfo
) -> Sequence[GenerationRequest]:
    """One for all choices: the answer is complete when the last of them is.

    Raises InvalidRequest, or UnsupportedFeature where the backend cannot keep one.
    """
    left_s = time_left_s(exchange.headers(DEADLINE_HEADER.encode()))
    if left_s is None:
        return requests
    if Feature.DEADLINE not in info.capabilities:
        raise UnsupportedFeature(field=DEADLINE_HEADER, backend=info.name)
    return [replace(request, deadline_at=exchange.arrived_at + left_s) for request in requests]
