"""What a load test sends: every prompt, length, sampling field and instant, frozen before anything starts.

Two runs are comparable when they replayed the plan of one SHA-256. Each load of a plan has prompts of its own, so
that a second load on a running engine finds nothing of the first in its prefix cache.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.files import write_atomically
from enginebay.types import GenerationRequest, Prompt, SamplingParams, Text, TokenIds

PLAN_VERSION = 1

Arrivals = Literal["closed", "constant", "poisson"]


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How hard: `users` that each wait for their answer before they ask again, or a `rate` of requests a second."""

    users: int | None = None
    rate: float | None = None
    arrivals: Arrivals = "closed"

    def __post_init__(self) -> None:
        if (self.users is None) == (self.rate is None):
            raise LoadTestError("a load has either users or a rate")
        if (self.arrivals == "closed") != (self.users is not None):
            raise LoadTestError("users go with closed arrivals, a rate with constant or poisson ones")
        if not (self.users or self.rate or 0) > 0:
            raise LoadTestError("users and rate must be more than 0")

    def __str__(self) -> str:
        if self.users is not None:
            return f"{self.users} user{'' if self.users == 1 else 's'}"
        return f"{self.rate:g} requests/s, {self.arrivals}"


class PlannedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    index: int
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    """Either text or token ids: what is sent, exactly."""
    num_prompt_tokens: int
    """As the target's tokenizer counts them, special tokens included."""
    offset_s: float | None = None
    """From the start of the run; None in a closed loop, where a request is sent when a user is free."""
    sampling: SamplingParams

    @property
    def prompt(self) -> Prompt:
        if self.token_ids is not None:
            return TokenIds(self.token_ids)
        return Text(self.text or "")

    def to_request(self, request_id: str) -> GenerationRequest:
        return GenerationRequest(request_id=request_id, prompt=self.prompt, sampling=self.sampling)


class PlannedLoad(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    load: Load
    warmup: tuple[PlannedRequest, ...] = ()
    """Sent first, in a closed loop, and not measured; shares no prefix with `requests`."""
    requests: tuple[PlannedRequest, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int = PLAN_VERSION
    model: str
    workload: str
    """In words, for the report."""
    seed: int
    loads: tuple[PlannedLoad, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(canonical_json(self)).hexdigest()


def canonical_json(plan: Plan) -> bytes:
    """One byte string for one plan: sorted keys, no white space, shortest exact floats."""
    return msgspec.json.encode(msgspec.to_builtins(plan, str_keys=True), order="sorted")


def save_plan(plan: Plan, path: Path) -> None:
    write_atomically(path, canonical_json(plan))


def load_plan(path: Path) -> Plan:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{path}: is not a plan of version {PLAN_VERSION}: {error}") from error
