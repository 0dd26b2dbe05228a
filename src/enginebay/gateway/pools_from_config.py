"""The models, pools and replicas that a config describes. Nothing is started here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from structlog.typing import FilteringBoundLogger

from enginebay.clock import Clock
from enginebay.config.gateway_models import ModelConfig
from enginebay.config.gateway_pool import PoolConfig
from enginebay.config.models import Config
from enginebay.config.resolution import ResolvedBackend, resolve_backend
from enginebay.configured import check_backend, configured_backend, one_replica
from enginebay.errors import ConfigError
from enginebay.gateway.call import Client
from enginebay.gateway.hooks import Hooks
from enginebay.gateway.models.catalog import Alias, CatalogContent, ModelVersion
from enginebay.gateway.pool.admission import AdmissionBounds
from enginebay.gateway.pool.breaker import BreakerBounds
from enginebay.gateway.pool.pool import Fallbacks, ModelPool, PoolBounds
from enginebay.gateway.pool.timeouts import Timeouts
from enginebay.gateway.pool.watch import HealthBounds
from enginebay.gateway.replicas import OwnedReplica, ReplicaSettings, RestartBounds
from enginebay.gateway.routing.registry import make_policy
from enginebay.guard import GuardedBackend
from enginebay.plugins import context_mode
from enginebay.wire.deadlines import DeadlineWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolParts:
    """What every pool of a gateway shares."""

    hooks: Hooks
    clock: Clock
    watch: DeadlineWatch
    log: FilteringBoundLogger
    rng: Random


def catalog_content(
    config: Config,
    models: Mapping[str, ModelConfig],
    pools: PoolConfig,
    parts: PoolParts,
    *,
    before: CatalogContent | None = None,
) -> CatalogContent:
    """before: replicas whose config is still the same are taken over from it, running as they are.

    Raises ConfigError or PluginError, before anything was begun.
    """
    builder = _Builder(config, pools, parts, {} if before is None else before.replicas)
    aliases: dict[str, Alias] = {}
    for name, model in models.items():
        aliases[name] = builder.alias(name, model, _fallbacks_of(model, aliases))
    return CatalogContent(aliases=aliases, replicas=builder.replicas, settings=builder.settings)


class _Builder:
    def __init__(self, config: Config, pools: PoolConfig, parts: PoolParts, before: Mapping[str, OwnedReplica]) -> None:
        self._config, self._pools, self._parts, self._before = config, pools, parts, before
        self.replicas: dict[str, OwnedReplica] = {}
        self.settings: dict[str, ReplicaSettings] = {}

    def alias(self, name: str, model: ModelConfig, fallbacks: Fallbacks) -> Alias:
        created_at_unix = int(time.time())
        versions = {
            version: ModelVersion(
                name=name,
                version=version,
                pool=self._pool([(str(entry.backend), entry.weight) for entry in entries], fallbacks),
                default_max_tokens=model.default_max_tokens,
                created_at_unix=created_at_unix,
            )
            for version, entries in model.versions.items()
        }
        return Alias(name=name, versions=versions, current=model.current_version)

    def _pool(self, entries: Sequence[tuple[str, float]], fallbacks: Fallbacks) -> ModelPool:
        owned = [replica for backend, weight in entries for replica in self._replicas_of(backend, weight)]
        parts, routing = self._parts, self._pools.routing
        pool = ModelPool(
            [each.replica for each in owned],
            make_policy(str(routing.policy), routing.options, Random(parts.rng.random())),
            hooks=parts.hooks,
            clock=parts.clock,
            watch=parts.watch,
            rng=Random(parts.rng.random()),
            bounds=_bounds(self._pools),
            fallbacks=fallbacks,
        )
        for each in owned:
            each.pools.add(pool)
        return pool

    def _replicas_of(self, backend: str, weight: float) -> list[OwnedReplica]:
        """Shared by all versions that name this backend: each engine is started once."""
        resolved = resolve_backend(self._config, backend)
        single = one_replica(self._config, backend)
        names = [f"{backend}-{index}" for index in range(resolved.entry.replicas)]
        return [self._replica(name, backend, single, weight) for name in names]

    def _replica(self, name: str, backend: str, config: Config, weight: float) -> OwnedReplica:
        checked = check_backend(config, backend)
        is_ours = context_mode(checked.spec, checked.context) != "external"
        settings = _settings(self._pools, weight, is_ours=is_ours)
        if self.settings.setdefault(name, settings) != settings:
            raise ConfigError(
                f"backend {backend!r} has different weights in two versions: its replicas are shared, so give it one",
                path="gateway.models",
            )
        identity = resolve_backend(config, backend)
        known = self.replicas.get(name) or self._before.get(name)
        if known is None or known.identity != identity:
            known = self._new_replica(name, backend, config, identity, must_start=is_ours)
        self.replicas[name] = known
        return known

    def _new_replica(
        self, name: str, backend: str, config: Config, identity: ResolvedBackend, *, must_start: bool
    ) -> OwnedReplica:
        parts, clock = self._parts, self._parts.clock

        def make() -> GuardedBackend:
            return configured_backend(config, backend, clock=clock)

        return OwnedReplica(
            name,
            make,
            identity=identity,
            clock=clock,
            watch=parts.watch,
            log=parts.log,
            rng=Random(parts.rng.random()),
            must_start=must_start,
            settings=self.settings[name],
        )


def _bounds(pools: PoolConfig) -> PoolBounds:
    admission = pools.admission
    return PoolBounds(
        max_attempts=pools.retries.max_attempts,
        max_in_flight=admission.max_in_flight,
        retry_ratio=pools.retries.ratio,
        min_retries_per_s=pools.retries.min_per_s,
        timeouts=Timeouts(**pools.timeouts.model_dump()),
        admission=AdmissionBounds(max_queued=admission.max_queued, max_wait_s=admission.max_wait_s),
    )


def _settings(pools: PoolConfig, weight: float, *, is_ours: bool) -> ReplicaSettings:
    return ReplicaSettings(
        weight=weight,
        breaker=BreakerBounds(**pools.breaker.model_dump()),
        health=_health(pools, is_ours=is_ours),
        restarts=RestartBounds(**pools.restarts.model_dump()),
    )


def _health(pools: PoolConfig, *, is_ours: bool) -> HealthBounds:
    """What we only reach cannot be started again by us."""
    bounds = HealthBounds(**pools.health.model_dump())
    return bounds if is_ours else replace(bounds, num_canaries_before_restart=None)


def _fallbacks_of(model: ModelConfig, aliases: Mapping[str, Alias]) -> Fallbacks:
    """Of the versions that these aliases have in this content; none that the client could not ask for itself."""
    names = [str(name) for name in model.fallbacks]

    def fallbacks(client: Client | None) -> Sequence[ModelPool]:
        allowed = None if client is None else client.models
        found = [aliases[name] for name in names if allowed is None or name in allowed]
        return [alias.versions[alias.current].pool for alias in found]

    return fallbacks
