"""What the load test and its client processes tell each other: one frame for each message, in MessagePack."""

from __future__ import annotations

from typing import Any

import msgspec

from enginebay.loadtest.client_health import ProcessFigures
from enginebay.loadtest.plan import Load, PlannedRequest
from enginebay.loadtest.records import Record
from enginebay.loadtest.sent.sent import Sent


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """How another process comes to a server that runs already."""

    kind: str
    name: str
    model: str
    """As the server calls it."""
    url: str
    options: dict[str, Any] = {}
    """Of the kind, secrets included: it travels over a socket pair alone."""


class Job(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first message to a client process."""

    reach: Reach
    requests: tuple[PlannedRequest, ...]
    """Its share of the plan."""
    load: Load
    """Of a closed loop, with its share of the users."""
    run_id: str
    request_timeout_s: float | None
    num_connections: int
    """Opened in advance."""


class Begin(msgspec.Struct, frozen=True, tag=True):
    at: float
    """On the clock that all processes of a machine share: the zero of every offset and record."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Record what is on its way as interrupted, and end."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Connected, and every body encoded."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    records: list[Record]
    num_in_flight: int


class RecordedRaw(msgspec.Struct, frozen=True, kw_only=True, tag="Recorded"):
    """The same as it is sent: each record was encoded when its request ended, not all of them at once."""

    records: list[msgspec.Raw]
    num_in_flight: int


class Replayed(msgspec.Struct, frozen=True, tag=True):
    """The last answer is there; what is not decoded yet follows as records."""


class SentPart(msgspec.Struct, frozen=True, tag=True):
    """What was given to the sockets: told when the run is over, in parts."""

    sent: list[Sent]


class Ended(msgspec.Struct, frozen=True, tag=True):
    figures: ProcessFigures


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It cannot do its part; a request that fails is a record and no such failure."""

    problem: str


ToWorker = Job | Begin | Stop
FromWorker = Ready | Recorded | Replayed | SentPart | Ended | Failed
encode = msgspec.msgpack.Encoder().encode
decode_to_worker = msgspec.msgpack.Decoder[ToWorker](ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder[FromWorker](FromWorker).decode
