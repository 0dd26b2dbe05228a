"""Calls and outcomes as the routes make them, for tests of the ledger."""

from __future__ import annotations

from enginebay.gateway.call import Attempt, Call, Client, Outcome
from enginebay.types import GenerationRequest, SamplingParams, Text


def call(request_id: str = "r-1", *, model: str = "assistant", key_id: str | None = "key-a", **fields) -> Call:
    request = GenerationRequest(
        request_id=request_id, prompt=Text("tell nobody of the merger"), sampling=SamplingParams(max_tokens=8)
    )
    defaults = {"requests": [request], "arrived_at": 10.0, "body_bytes": 100, "attempts": [Attempt("v1-0", 10.0)]}
    return Call(
        request_id=request_id,
        client=Client(address="192.0.2.7", key_id=key_id),
        model=model,
        **(defaults | fields),
    )


def outcome(kind="finished", **fields) -> Outcome:
    defaults = {
        "error_code": None,
        "num_prompt_tokens": 100,
        "num_cached_tokens": None,
        "num_output_tokens": 20,
        "num_unbilled_tokens": 0,
        "ended_at": 12.5,
    }
    return Outcome(kind=kind, **(defaults | fields))
