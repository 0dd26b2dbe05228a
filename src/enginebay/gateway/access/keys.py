"""The text of an API key: `eb-`, its public id, and 256 random bits. Only a hash of it is ever kept.

The hash needs no salt and no slowness: nobody can try 2**256 secrets.
"""

from __future__ import annotations

import re
import secrets
from hashlib import sha256

_TEXT = re.compile(r"eb-([0-9a-f]{16})-[A-Za-z0-9_-]{43}")


def new_key_id() -> str:
    return secrets.token_hex(8)


def new_key_text(key_id: str) -> str:
    """Shown once, and known to nobody afterwards but who received it."""
    return f"eb-{key_id}-{secrets.token_urlsafe(32)}"


def key_id_of(text: str) -> str | None:
    """The public part; None for what is no key of ours."""
    match = _TEXT.fullmatch(text)
    return match[1] if match is not None else None


def hash_of(text: str) -> bytes:
    """32 bytes."""
    return sha256(text.encode()).digest()
