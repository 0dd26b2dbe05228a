"""Tokens, concurrency and budgets: what is reserved stays through a reload, what may be reserved is read anew."""

from __future__ import annotations

from collections.abc import Mapping

from redis.asyncio import Redis
from structlog.typing import FilteringBoundLogger

from enginebay.clock import Clock
from enginebay.config.gateway import GatewayConfig
from enginebay.config.gateway_limits import LimitsConfig
from enginebay.gateway.database import Database
from enginebay.gateway.ledger.ledger import prices_of
from enginebay.gateway.limits.budgets import Budgets
from enginebay.gateway.limits.demands import CallDemands
from enginebay.gateway.limits.hook import LimitsHook
from enginebay.gateway.limits.in_memory import MemoryReservations
from enginebay.gateway.limits.in_redis import RedisReservations
from enginebay.gateway.limits.reservations import Reservations
from enginebay.gateway.limits.spending import LedgerSpending


class Accounts:
    def __init__(
        self, config: LimitsConfig, database: Database | None, *, log: FilteringBoundLogger, clock: Clock
    ) -> None:
        """database: with the ledger, for budgets."""
        self._database, self._clock = database, clock
        self._reservations: Reservations
        if config.redis is None:
            self._reservations = MemoryReservations(clock=clock)
        else:
            redis = Redis.from_url(str(config.redis))
            self._reservations = RedisReservations(redis, log=log, lease_s=config.lease_s)
        self.aclose = self._reservations.aclose

    def reserved(self) -> Mapping[str, int] | None:
        """What running requests hold, by measure; None where it is in Redis."""
        return self._reservations.reserved() if isinstance(self._reservations, MemoryReservations) else None

    def hook(self, config: GatewayConfig) -> LimitsHook:
        assert config.limits is not None
        return LimitsHook(CallDemands(config.limits), self._reservations, budgets=self._budgets(config))

    def _budgets(self, config: GatewayConfig) -> Budgets | None:
        if not config.has_budgets:
            return None
        assert config.limits is not None
        assert config.ledger is not None
        assert self._database is not None
        spending = LedgerSpending(self._database, currency=str(config.ledger.currency))
        return Budgets(config.limits, prices_of(config.ledger), spending, self._reservations, clock=self._clock)
