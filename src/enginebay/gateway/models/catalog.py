"""The models of a gateway: aliases that point to versions, and can be moved while requests run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from structlog.typing import FilteringBoundLogger

from enginebay.clock import Clock
from enginebay.errors import BackendTimeout, UnknownModel
from enginebay.gateway.call import Call
from enginebay.gateway.pool.pool import ModelPool
from enginebay.gateway.pool.replica import Replica, ReplicaState
from enginebay.gateway.replicas import OwnedReplica, ReplicaSettings
from enginebay.monitoring import Exporter
from enginebay.types import BackendInfo, GenerationChunk, GenerationRequest, Health, HealthState, Prompt
from enginebay.wire.deadlines import DeadlineWatch

LOOK_EVERY_S = 0.1
DRAIN_S = 600.0
"""How long a replica that a reload took away may finish what it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A `ServedModel`: what a call has of its model. The alias may move meanwhile; the call stays with this."""

    name: str
    version: str
    pool: ModelPool
    default_max_tokens: int | None
    created_at_unix: int

    @property
    def info(self) -> BackendInfo:
        return self.pool.info

    def demand_ready(self) -> None:
        self.pool.demand_ready()

    def stream(self, call: Call, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        return self.pool.stream(call, request)

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return await self.pool.count_tokens(prompt)

    def health(self) -> Health:
        """Of what is known; nothing is asked."""
        reasons = [replica.why_not() for replica in self.pool.replicas if not replica.is_available()]
        if not reasons:
            return Health(HealthState.READY)
        reason = f"{self.name}: {'; '.join(reasons)}"
        if len(reasons) < len(self.pool.replicas):
            return Health(HealthState.DEGRADED, reason)
        is_loading = all(replica.state is ReplicaState.LOADING for replica in self.pool.replicas)
        return Health(HealthState.LOADING if is_loading else HealthState.DEAD, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """current: a key of `versions`."""

    name: str
    versions: Mapping[str, ModelVersion]
    current: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogContent:
    """What one config comes to. Its replicas live only while a catalog has it."""

    aliases: dict[str, Alias]
    """Replaced one by one when they are moved."""
    replicas: Mapping[str, OwnedReplica]
    """By name; those of the content before are the same objects where their engine's config is the same."""
    settings: Mapping[str, ReplicaSettings] = field(default_factory=dict[str, ReplicaSettings])
    """By the name of the replica; taken when the content is."""


class Catalog:
    """A `ModelCatalog` whose content is exchanged whole: a call sees the old one or the new one, never a mixture."""

    def __init__(
        self,
        content: CatalogContent,
        *,
        clock: Clock,
        watch: DeadlineWatch,
        log: FilteringBoundLogger,
        calls_of_now: Callable[[], Callable[[], bool]] = lambda: _none,
    ) -> None:
        """calls_of_now: asked when the content is exchanged; what it gives says later whether a call from before it
        is still open. Such a call may have taken its model and not yet come to a replica."""
        self.content, self._calls_of_now = content, calls_of_now
        self._clock, self._watch, self._log = clock, watch, log
        self._retiring: set[asyncio.Task[None]] = set()

    def names(self) -> Sequence[str]:
        return tuple(self.content.aliases)

    def find(self, name: str) -> ModelVersion | None:
        """`alias`, or `alias@version` for one that clients are not sent to."""
        alias_name, _, version = name.partition("@")
        alias = self.content.aliases.get(name) or self.content.aliases.get(alias_name)
        if alias is None:
            return None
        return alias.versions.get(version or alias.current) if alias.name != name else alias.versions[alias.current]

    def move(self, name: str, version: str) -> None:
        """Let the alias point to another of its versions, from the next call on. Raises UnknownModel."""
        alias = self.content.aliases.get(name)
        if alias is None or version not in alias.versions:
            known = () if alias is None else tuple(f"{name}@{other}" for other in alias.versions)
            raise UnknownModel(f"{name}@{version}", available=known or self.names())
        self.content.aliases[name] = replace(alias, current=version)
        self._log.info("model moved", model=name, before=alias.current, now=version)

    async def exchange(self, content: CatalogContent, *, ready_within_s: float) -> None:
        """Start what is new, wait until each alias that has changed can be served, then exchange, then let go of what
        is left over. An alias whose replicas are what they were has nothing to wait for, broken or not.

        Raises BackendTimeout where that is not so in time, and what the start of an engine of ours failed with; what
        was new is ended then, and the old content kept.
        """
        new = [owned for name, owned in content.replicas.items() if self.content.replicas.get(name) is not owned]
        for owned in new:
            owned.begin()
        try:
            changed = [alias for alias in content.aliases.values() if not self._is_as_before(alias)]
            await self._wait_for(changed, new, until=self._clock.now() + ready_within_s)
        except BaseException:
            await asyncio.gather(*(owned.end() for owned in new))
            raise
        old, self.content = self.content, content
        for name, settings in content.settings.items():
            content.replicas[name].adopt(settings)
        is_any_open = self._calls_of_now()
        kept = set(map(id, content.replicas.values()))
        for owned in old.replicas.values():
            if id(owned) not in kept:
                self._retire(owned, is_any_open)

    def exporters(self) -> Iterable[Exporter]:
        return [owned.backend.exporter for owned in self.content.replicas.values()]

    @property
    def is_simulated(self) -> bool:
        return any(owned.backend.info.simulated for owned in self.content.replicas.values())

    def begin(self) -> None:
        for owned in self.content.replicas.values():
            owned.begin()

    async def wait_until_ready(self) -> None:
        """Until each alias has a replica, and every engine of ours has started. Raises what such a start failed with.

        A server elsewhere is tried again for as long as it takes: see the log.
        """
        content = self.content
        await self._wait_for([*content.aliases.values()], [*content.replicas.values()], until=None)

    async def health(self) -> Health:
        """Of what is known, so it is told at once. Ready while any alias is served, with what is lost as its reason.

        One that has never been served yet is worth waiting for; one that was lost takes nothing from the others.
        """
        found = [alias.versions[alias.current].health() for alias in self.content.aliases.values()]
        worst = max(found, key=lambda health: _BAD.index(health.state))
        if not any(map(_is_served, found)) or any(map(self._is_new, self.content.aliases.values())):
            return worst
        return Health(HealthState.READY, "; ".join(health.reason for health in found if health.reason))

    def _is_new(self, alias: Alias) -> bool:
        """Whether its first start is still on its way."""
        owned = [self.content.replicas[replica.name] for replica in _replicas(alias)]
        return all(each.num_starts <= 1 and each.replica.state is ReplicaState.LOADING for each in owned)

    async def wait_until_dead(self) -> str:
        """Never: what dies here is started again."""
        return await asyncio.get_running_loop().create_future()

    async def end(self) -> None:
        """Let requests drain before: what still runs is cut off."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await asyncio.gather(*(owned.end() for owned in self.content.replicas.values()))
        self._watch.close()

    def _is_as_before(self, alias: Alias) -> bool:
        before = self.content.aliases.get(alias.name)
        return before is not None and set(_replicas(before)) == set(_replicas(alias))

    async def _wait_for(self, aliases: Sequence[Alias], new: Sequence[OwnedReplica], *, until: float | None) -> None:
        while True:
            num_awaited = sum(owned.is_awaited() for owned in new)
            missing = [alias for alias in aliases if not _is_ready(alias)]
            if not missing and not num_awaited:
                return
            if until is not None and self._clock.now() >= until:
                reasons = "; ".join(_why_not_ready(missing, new))
                raise BackendTimeout(f"not ready in time, so everything stays as it was: {reasons}")
            await self._clock.sleep_until(self._clock.now() + LOOK_EVERY_S)

    def _retire(self, owned: OwnedReplica, is_any_open: Callable[[], bool]) -> None:
        task = asyncio.create_task(self._drain(owned, is_any_open), name=f"retire {owned.replica.name}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _drain(self, owned: OwnedReplica, is_any_open: Callable[[], bool]) -> None:
        """Calls that began before the exchange end in their own time, wherever they are on their way."""
        try:
            until = self._clock.now() + DRAIN_S
            while (owned.replica.num_in_flight or is_any_open()) and self._clock.now() < until:
                await self._clock.sleep_until(self._clock.now() + LOOK_EVERY_S)
        finally:
            await owned.end()


_BAD = (HealthState.READY, HealthState.DEGRADED, HealthState.LOADING, HealthState.DEAD)


def _is_served(health: Health) -> bool:
    return health.state in (HealthState.READY, HealthState.DEGRADED)


def _is_ready(alias: Alias) -> bool:
    return any(replica.state is ReplicaState.READY for replica in _replicas(alias))


def _replicas(alias: Alias) -> Sequence[Replica]:
    return alias.versions[alias.current].pool.replicas


def _none() -> bool:
    return False


def _why_not_ready(missing: Iterable[Alias], new: Iterable[OwnedReplica]) -> list[str]:
    aliases = [alias.versions[alias.current].health().reason for alias in missing]
    return aliases or [owned.replica.why_not() for owned in new if not owned.replica.is_available()]
