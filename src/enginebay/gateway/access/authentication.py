"""From the authorization header of a request to the client who sent it."""

from __future__ import annotations

import time
from collections.abc import Callable

from enginebay.errors import AuthenticationFailed
from enginebay.gateway.access.cached_keys import CachedKeys
from enginebay.gateway.access.keys import hash_of, key_id_of
from enginebay.gateway.call import Client

_SCHEME = "bearer "
_LONGEST_HEADER = 200


class Authentication:
    def __init__(self, keys: CachedKeys, *, unix_time: Callable[[], float] = time.time) -> None:
        self._keys, self._unix_time = keys, unix_time

    async def client(self, authorization: bytes | None, address: str) -> Client:
        """authorization: the header's value. Raises AuthenticationFailed, StoreUnavailable."""
        text = _bearer_text(authorization)
        key_id = key_id_of(text)
        record = await self._keys.get(key_id) if key_id is not None else None
        if record is None or not record.accepts(hash_of(text), self._unix_time()):
            raise AuthenticationFailed("this API key is not known, or no longer: check it, or ask for another")
        return Client(
            address=address,
            key_id=record.key_id,
            scopes=record.scopes,
            models=record.models,
            tier=record.tier,
        )

    async def aclose(self) -> None:
        await self._keys.aclose()


def _bearer_text(authorization: bytes | None) -> str:
    if authorization is None:
        raise AuthenticationFailed("there is no API key: send the header `Authorization: Bearer YOUR_KEY`")
    header = authorization[:_LONGEST_HEADER].decode("latin-1")
    if not header[: len(_SCHEME)].lower() == _SCHEME:
        raise AuthenticationFailed("the authorization header holds no bearer token: send `Bearer YOUR_KEY`")
    return header[len(_SCHEME) :].strip()
