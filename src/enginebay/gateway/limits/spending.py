"""What a key has spent, out of the ledger."""

from __future__ import annotations

import sqlalchemy as sa

from enginebay.gateway.database import Database
from enginebay.gateway.ledger.tables import ledger


class LedgerSpending:
    """currency: of the budgets; what was paid in another is not converted, and does not count."""

    def __init__(self, database: Database, *, currency: str) -> None:
        self._database, self._currency = database, currency

    def spent_nano(self, key_id: str, *, since_unix: float) -> int:
        query = sa.select(sa.func.sum(ledger.c.cost_nano)).where(
            ledger.c.key_id == key_id,
            ledger.c.arrived_at_unix >= since_unix,
            ledger.c.currency == self._currency,
        )
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar() or 0)
