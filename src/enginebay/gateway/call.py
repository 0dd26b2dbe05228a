"""One request of a client through the gateway, and what became of it: what every hook sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from enginebay.errors import EngineBayError
from enginebay.types import GenerationRequest, Usage

OutcomeKind = Literal["finished", "cancelled", "refused", "failed"]
"""refused: the request, or its client, was at fault, or there was no room; nothing was made. failed: we or an engine
were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who asks."""

    address: str
    """IP address of the peer; empty where the server does not tell."""
    key_id: str | None = None
    """None where nobody is asked for a key."""
    scopes: frozenset[str] = frozenset()
    models: frozenset[str] | None = None
    """Aliases that it may use; None is all of them."""
    tier: str = ""
    """Which of the limits' tiers; empty is the one for all."""


@dataclass(slots=True)
class Attempt:
    """One try of one choice on one replica."""

    replica: str
    began_at: float
    error: EngineBayError | None = None
    num_tokens: int = 0
    """Received from this replica."""
    resumed: Literal["exact", "approximate"] | None = None
    """Where it went on in the middle of an answer: whether the rest is what the first replica would have said."""


@dataclass(slots=True, kw_only=True)
class Call:
    """From the arrival of a request to its one outcome; `requests` has one for each choice."""

    request_id: str
    client: Client
    model: str
    """The alias that was asked for."""
    requests: Sequence[GenerationRequest]
    arrived_at: float
    """Of the injected clock."""
    body_bytes: int
    version: str = ""
    """Set when the alias is resolved."""
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    first_token_at: float | None = None
    num_received_tokens: int = 0
    """Output tokens of all choices that reached the gateway."""
    num_prompt_tokens: int | None = None
    """Once known: counted before, or told by the engine. Of each prompt once, however many choices it has."""
    answer_headers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    """Of its answer, or of its refusal: `before_routing` may add to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    kind: OutcomeKind
    error_code: str | None
    """The wire's code; None where it finished or was cancelled."""
    num_prompt_tokens: int
    num_cached_tokens: int | None
    num_output_tokens: int
    """Finished: the engines' usage. Otherwise: what the gateway received."""
    num_unbilled_tokens: int | None
    """What the engines made beyond that; None where they do not tell."""
    usages: tuple[Usage, ...] = ()
    """Of each choice, in the order of the requests: what was known of it when the call ended."""
    ended_at: float
