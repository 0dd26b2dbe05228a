"""What the oracle does with each request, and what it tells of it afterwards."""

from __future__ import annotations

import msgspec


class OracleScript(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    first_token_after_s: float = 0.0
    """From the last byte of the request."""
    token_gap_s: float = 0.0
    tokens_per_chunk: int = 1
    role_only_chunk: bool = False
    """Open the stream at once with a chunk that carries a role and no token."""
    with_usage: bool = True
    num_tokens: int | None = None
    """Made whatever was asked, if that is less; else as many as were asked for."""
    num_echoed_prompt_tokens: int = 0
    """Ids of a prompt in the first chunk of a completion, as engines send them that are asked for token ids: one long
    event."""
    separate_writes: bool = False
    """Each chunk in a write of its own, also without a delay between them."""

    @property
    def is_instant(self) -> bool:
        return not (self.first_token_after_s or self.token_gap_s)


class Exchange(msgspec.Struct, array_like=True):
    """One answered request. Instants on the monotonic clock that all processes of a machine share."""

    request_id: str
    received_at: float
    """When its last byte was there."""
    sent_at: list[float] = []
    """When each chunk with tokens was given to the socket; one instant for all where they went in one write."""
    num_tokens: int = 0
    """Sent in all."""
    is_cut: bool = False
    """The client went away before the end."""
