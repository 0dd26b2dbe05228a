"""The ledger as a part of the server: what writes entries, and what brings them into the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from enginebay.clock import Clock
from enginebay.config.gateway_ledger import LedgerConfig, PriceConfig
from enginebay.gateway.database import Database
from enginebay.gateway.ledger.collector import LedgerCollector
from enginebay.gateway.ledger.hook import LedgerHook
from enginebay.gateway.ledger.journal import Journal
from enginebay.gateway.ledger.prices import Price, Prices
from enginebay.gateway.ledger.writer import LedgerWriter


class Ledger:
    """`hook_for` the calls, `collector` for the metrics, `begin` and `end` with the server."""

    def __init__(
        self, config: LedgerConfig, connect: Callable[[], Database], *, log: FilteringBoundLogger, clock: Clock
    ) -> None:
        """connect: opens a database for the ledger alone, in its thread. Raises ConfigError."""
        self._journal = Journal(Path(config.journal))
        self._writer = LedgerWriter(self._journal, connect, log=log, clock=clock)
        self.collector: Collector = LedgerCollector(self._journal, self._writer)

    def hook_for(self, config: LedgerConfig) -> LedgerHook:
        """With the prices and the currency of this config; the journal stays that of the start."""
        return LedgerHook(self._journal, prices_of(config))

    async def begin(self) -> None:
        """Before the first call. What an earlier gateway left is stored then, if the database can be reached.

        So budgets, which are counted from the database, forget nothing of it.
        """
        await asyncio.to_thread(self._writer.round)
        self._writer.begin()

    async def end(self) -> None:
        """After the last call has ended."""
        await asyncio.to_thread(self._writer.end)


def prices_of(config: LedgerConfig) -> Prices:
    return Prices({model: _price(price) for model, price in config.prices.items()}, currency=config.currency)


def _price(config: PriceConfig) -> Price:
    if config.hour is not None and config.output_tokens_per_s is not None:
        return Price.per_hour(config.hour, output_tokens_per_s=config.output_tokens_per_s)
    return Price.per_million(prompt=config.prompt or 0.0, cached=config.cached_prompt, output=config.output or 0.0)
