"""API keys in the gateway's database. Every call blocks: on an event loop, in a thread."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import sqlalchemy as sa

from enginebay.errors import InvalidRequest
from enginebay.gateway.access.keys import hash_of, new_key_id, new_key_text
from enginebay.gateway.access.records import KeptSecret, KeyRecord, NewKey
from enginebay.gateway.access.tables import api_key_changes, api_key_secrets, api_keys
from enginebay.gateway.database import Database


class KeyStore:
    """Raises StoreUnavailable where the database cannot be used, InvalidRequest for a key that is not there."""

    def __init__(self, database: Database, *, unix_time: Callable[[], float] = time.time) -> None:
        self._database, self._unix_time = database, unix_time

    def create(
        self,
        name: str,
        *,
        scopes: Collection[str],
        models: Collection[str] | None = None,
        tier: str = "",
        expires_at_unix: float | None = None,
    ) -> NewKey:
        key_id = new_key_id()
        with self._database.writing() as connection:
            connection.execute(
                api_keys.insert().values(
                    key_id=key_id,
                    name=name,
                    scopes=sorted(scopes),
                    models=None if models is None else sorted(models),
                    tier=tier,
                    created_at_unix=self._unix_time(),
                    expires_at_unix=expires_at_unix,
                )
            )
            text = self._add_secret(connection, key_id)
            return NewKey(_demand(connection, key_id), text)

    def rotate(self, key_id: str, *, overlap_s: float) -> NewKey:
        """A new secret for the same key; those before it are accepted for overlap_s more, or as long as they were."""
        now = self._unix_time()
        with self._database.writing() as connection:
            record = _demand(connection, key_id)
            if not record.is_valid(now):
                raise InvalidRequest(f"the key {key_id} is revoked or has expired: make a new one")
            ends_at = now + overlap_s
            column = api_key_secrets.c.expires_at_unix
            connection.execute(
                api_key_secrets.update()
                .where(api_key_secrets.c.key_id == key_id, sa.or_(column.is_(None), column > ends_at))
                .values(expires_at_unix=ends_at)
            )
            text = self._add_secret(connection, key_id)
            return NewKey(_demand(connection, key_id), text)

    def revoke(self, key_id: str) -> KeyRecord:
        """For good. A key that is revoked already keeps the instant at which it was."""
        with self._database.writing() as connection:
            connection.execute(
                api_keys.update()
                .where(api_keys.c.key_id == key_id, api_keys.c.revoked_at_unix.is_(None))
                .values(revoked_at_unix=self._unix_time())
            )
            _count_change(connection)
            return _demand(connection, key_id)

    def find(self, key_id: str) -> KeyRecord | None:
        with self._database.reading() as connection:
            return next(iter(_records(connection, key_id)), None)

    def all(self) -> Sequence[KeyRecord]:
        """In the order in which they were made."""
        with self._database.reading() as connection:
            return _records(connection)

    def num_changes(self) -> int:
        """Another number than before means that some key has changed."""
        with self._database.reading() as connection:
            return connection.execute(sa.select(api_key_changes.c.num_changes)).scalar_one()

    def _add_secret(self, connection: sa.Connection, key_id: str) -> str:
        text = new_key_text(key_id)
        connection.execute(
            api_key_secrets.insert().values(
                secret_sha256=hash_of(text), key_id=key_id, created_at_unix=self._unix_time()
            )
        )
        _count_change(connection)
        return text


def _count_change(connection: sa.Connection) -> None:
    connection.execute(api_key_changes.update().values(num_changes=api_key_changes.c.num_changes + 1))


def _demand(connection: sa.Connection, key_id: str) -> KeyRecord:
    found = _records(connection, key_id)
    if not found:
        raise InvalidRequest(f"there is no key with the id {key_id!r}: `enginebay keys list` shows them")
    return found[0]


def _records(connection: sa.Connection, key_id: str | None = None) -> list[KeyRecord]:
    keys = sa.select(api_keys).order_by(api_keys.c.created_at_unix, api_keys.c.key_id)
    secrets = sa.select(api_key_secrets).order_by(api_key_secrets.c.created_at_unix)
    if key_id is not None:
        keys, secrets = keys.where(api_keys.c.key_id == key_id), secrets.where(api_key_secrets.c.key_id == key_id)
    kept: dict[str, list[KeptSecret]] = defaultdict(list)
    for row in connection.execute(secrets):
        kept[row.key_id].append(KeptSecret(row.secret_sha256, row.created_at_unix, row.expires_at_unix))
    return [_record(row, kept[row.key_id]) for row in connection.execute(keys)]


def _record(row: sa.Row[tuple[object, ...]], secrets: Sequence[KeptSecret]) -> KeyRecord:
    return KeyRecord(
        key_id=row.key_id,
        name=row.name,
        scopes=frozenset(row.scopes),
        models=None if row.models is None else frozenset(row.models),
        tier=row.tier,
        created_at_unix=row.created_at_unix,
        expires_at_unix=row.expires_at_unix,
        revoked_at_unix=row.revoked_at_unix,
        secrets=tuple(secrets),
    )
