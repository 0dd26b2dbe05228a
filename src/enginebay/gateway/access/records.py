"""What is kept of an API key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hmac import compare_digest


@dataclass(frozen=True, slots=True)
class KeptSecret:
    sha256: bytes = field(repr=False)
    created_at_unix: float
    expires_at_unix: float | None = None
    """When the secret that took over is the only one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    key_id: str
    name: str
    scopes: frozenset[str]
    models: frozenset[str] | None
    """Aliases; None is all of them."""
    tier: str
    created_at_unix: float
    expires_at_unix: float | None
    revoked_at_unix: float | None
    secrets: Sequence[KeptSecret]

    def is_valid(self, now_unix: float) -> bool:
        return self.revoked_at_unix is None and _is_before(now_unix, self.expires_at_unix)

    def accepts(self, sha256: bytes, now_unix: float) -> bool:
        """Takes as long for a wrong hash as for a right one."""
        is_known = False
        for secret in self.secrets:
            is_equal = compare_digest(secret.sha256, sha256)
            is_known |= is_equal and _is_before(now_unix, secret.expires_at_unix)
        return is_known and self.is_valid(now_unix)


@dataclass(frozen=True, slots=True)
class NewKey:
    record: KeyRecord
    text: str
    """The whole key: to be shown once."""

    def __repr__(self) -> str:
        return f"NewKey({self.record!r})"


def _is_before(now_unix: float, end_unix: float | None) -> bool:
    return end_unix is None or now_unix < end_unix
