"""What is kept of one call, as a line of the journal."""

from __future__ import annotations

from typing import Literal

import msgspec

from enginebay.gateway.call import OutcomeKind

LINE_END = b"\n"


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """No text of anybody's, no address: counts, names of the gateway's own, and the id that the client was told."""

    request_id: str
    """Not unique where a client sends one id twice; a row is known by its place in the journal."""
    arrived_at_unix: float
    duration_s: float
    ttft_s: float | None = None
    key_id: str | None = None
    model: str
    """The alias that was asked for."""
    version: str = ""
    replica: str = ""
    """The last that was tried; empty where none was."""
    num_choices: int = 1
    num_attempts: int = 0
    """Tries of all choices on all replicas."""
    resumed: Literal["exact", "approximate"] | None = None
    """Where a replica went on with what another had begun: whether it said what the first would have said."""
    outcome: OutcomeKind
    error_code: str | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int | None = None
    num_output_tokens: int = 0
    num_unbilled_tokens: int | None = None
    """Made by the engines beyond `num_output_tokens`; None where they do not tell."""
    cost_nano: int | None = None
    """Billionths of `currency`; None where the model has no price."""
    currency: str | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    return _encoder.encode(entry) + LINE_END


def decode_entry(line: bytes) -> Entry | None:
    """None for a damaged line. Fields that this version does not know are left out, missing ones have their default."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
