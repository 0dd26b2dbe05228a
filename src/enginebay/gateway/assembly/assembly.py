"""All parts of a gateway, and how a new config takes the place of the old one while requests run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from enginebay.clock import Clock
from enginebay.config.gateway import GatewayConfig
from enginebay.config.models import Config
from enginebay.errors import ConfigError
from enginebay.gateway.access.doors import LoopbackDoor
from enginebay.gateway.app import Part
from enginebay.gateway.assembly.lives import EndsWith
from enginebay.gateway.bounds import Bounds
from enginebay.gateway.call_log import CallLog, TextLog
from enginebay.gateway.doorkeeper import Doorkeeper
from enginebay.gateway.hooks import GatewayHook, Hooks
from enginebay.gateway.models.catalog import Catalog, CatalogContent
from enginebay.gateway.models.collector import CatalogCollector
from enginebay.gateway.open_collector import OpenCollector
from enginebay.gateway.open_requests import OpenRequests
from enginebay.gateway.pools_from_config import PoolParts, catalog_content
from enginebay.gateway.refusals import ErrorCollector
from enginebay.gateway.served import Served
from enginebay.wire.deadlines import DeadlineWatch

RELOAD_READY_S = 600.0
"""New engines may load for so long; until they are ready, the old ones serve."""


class Assembly:
    """`served` is what routes see, `parts` what begins and ends with the server."""

    def __init__(
        self, config: Config, *, log: FilteringBoundLogger, clock: Clock, extra_hooks: Sequence[GatewayHook] = ()
    ) -> None:
        """Opens the database, if there is one; starts nothing. extra_hooks: what the config does not name; last.

        Raises ConfigError, PluginError, StoreUnavailable.
        """
        gateway = gateway_of(config)
        self._config, self._log, self._clock, self._extra_hooks = config, log, clock, extra_hooks
        self._hooks = Hooks((), log)
        self._pool_parts = PoolParts(hooks=self._hooks, clock=clock, watch=DeadlineWatch(clock), log=log, rng=Random())
        self.open_requests = OpenRequests()
        self._catalog = Catalog(
            self._content(config, None),
            clock=clock,
            watch=self._pool_parts.watch,
            log=log,
            calls_of_now=self.open_requests.those_of_now,
        )
        self._add_stores(gateway)
        self._hooks.become(self._made_hooks(gateway))
        self.served = Served(
            models=self._catalog,
            door=self._door(gateway),
            hooks=self._hooks,
            bounds=Bounds.of(config.server),
            log=log,
            clock=clock,
            is_ending=lambda: self.open_requests.has_ended,
            counts_prompts=gateway.has_token_limits,
        )
        self.served.collectors = self._collectors()

    def _collectors(self) -> Sequence[Collector]:
        accounts = self._accounts
        open_collector = OpenCollector(self.open_requests, (lambda: None) if accounts is None else accounts.reserved)
        ledger = () if self._ledger is None else (self._ledger.collector,)
        errors = ErrorCollector(self.served.num_errors_by_code)
        return (CatalogCollector(self._catalog), open_collector, errors, *ledger)

    def _add_stores(self, gateway: GatewayConfig) -> None:
        parts: list[Part] = []
        self._database = self._ledger = self._doors = self._accounts = None
        if gateway.needs_database:
            from enginebay.gateway.database import open_database

            url = str(gateway.database)
            self._database = database = open_database(url)
            parts.append(EndsWith(lambda: asyncio.to_thread(database.close)))
            if gateway.ledger is not None:
                from enginebay.gateway.ledger.ledger import Ledger

                self._ledger = Ledger(gateway.ledger, lambda: open_database(url), log=self._log, clock=self._clock)
                parts.append(self._ledger)
        if gateway.access is not None or gateway.limits is not None:
            from enginebay.gateway.assembly.access import CountingDoors

            self._doors = CountingDoors(gateway, self._database, clock=self._clock)
            parts.append(EndsWith(self._doors.aclose))
        if gateway.limits is not None:
            from enginebay.gateway.assembly.accounts import Accounts

            self._accounts = Accounts(gateway.limits, self._database, log=self._log, clock=self._clock)
            parts.append(EndsWith(self._accounts.aclose))
        self.parts: Sequence[Part] = parts

    def _content(self, config: Config, before: CatalogContent | None) -> CatalogContent:
        gateway = gateway_of(config)
        return catalog_content(config, gateway.models, gateway, self._pool_parts, before=before)

    def _door(self, gateway: GatewayConfig) -> Doorkeeper:
        return LoopbackDoor() if self._doors is None else self._doors.door(gateway)

    def _made_hooks(self, gateway: GatewayConfig) -> list[GatewayHook]:
        hooks: list[GatewayHook] = []
        if self._accounts is not None:
            hooks.append(self._accounts.hook(gateway))
        if self._ledger is not None and gateway.ledger is not None:
            hooks.append(self._ledger.hook_for(gateway.ledger))
        if gateway.logs.calls:
            hooks.append(TextLog(self._log) if gateway.logs.texts else CallLog(self._log))
        return [*hooks, *self._extra_hooks]

    async def reload(self, config: Config) -> None:
        """From one instant on everything new, for calls that arrive then; whatever fails, everything stays as it is.

        Raises ConfigError for what only a restart can change, PluginError, and BackendTimeout where new engines are
        not ready within ten minutes.
        """
        gateway = gateway_of(config)
        demand_reloadable(self._config, config)
        content = self._content(config, self._catalog.content)
        hooks, door, bounds = self._made_hooks(gateway), self._door(gateway), Bounds.of(config.server)
        await self._catalog.exchange(content, ready_within_s=RELOAD_READY_S)
        self._hooks.become(hooks)
        self.served.door, self.served.bounds = door, bounds
        self.served.counts_prompts = gateway.has_token_limits
        self._config = config


def gateway_of(config: Config) -> GatewayConfig:
    """Raises ConfigError."""
    if config.gateway is None:
        raise ConfigError("the section is missing", file=config.source.file, path="gateway")
    return config.gateway


def demand_reloadable(old: Config, new: Config) -> None:
    """Raises ConfigError that names what differs and is read only at the start."""
    before, after = gateway_of(old), gateway_of(new)
    changed = [
        path
        for path, was, is_now in (
            ("server.host", old.server.host, new.server.host),
            ("server.port", old.server.port, new.server.port),
            ("server.max_head_bytes", old.server.max_head_bytes, new.server.max_head_bytes),
            ("server.shutdown_grace_s", old.server.shutdown_grace_s, new.server.shutdown_grace_s),
            ("gateway.database", before.database, after.database),
            ("gateway.access", before.access, after.access),
            ("gateway.limits", before.limits is None, after.limits is None),
            ("gateway.limits.redis", before.limits and before.limits.redis, after.limits and after.limits.redis),
            ("gateway.limits.lease_s", before.limits and before.limits.lease_s, after.limits and after.limits.lease_s),
            ("gateway.ledger", before.ledger is None, after.ledger is None),
            ("gateway.ledger.journal", _journal(before), _journal(after)),
            ("gateway.reload_on_change", before.reload_on_change, after.reload_on_change),
        )
        if was != is_now
    ]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)} cannot be changed while the gateway runs: restart it, or take the change back",
            file=new.source.file,
        )


def _journal(gateway: GatewayConfig) -> str | None:
    return None if gateway.ledger is None else str(gateway.ledger.journal)
