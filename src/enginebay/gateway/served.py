"""What the routes work with: one backend under one name."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import count

from structlog.typing import FilteringBoundLogger

from enginebay.clock import Clock
from enginebay.errors import UnknownModel
from enginebay.gateway.bounds import Bounds
from enginebay.gateway.lifecycle import BackendLife
from enginebay.monitoring import InstrumentedBackend
from enginebay.types import Feature
from enginebay.wire.openai_to_request import Target


@dataclass(slots=True, kw_only=True)
class Served:
    backend: InstrumentedBackend
    life: BackendLife
    model_name: str
    bounds: Bounds
    log: FilteringBoundLogger
    clock: Clock
    """The backend's."""
    started_at_unix: int = field(default_factory=lambda: int(time.time()))
    _serials: count[int] = field(default_factory=count)

    def demand_model(self, name: str | None) -> None:
        """None is the one that is served. Raises UnknownModel."""
        if name is not None and name != self.model_name:
            raise UnknownModel(name, available=[self.model_name])

    @property
    def target(self) -> Target:
        return Target(info=self.backend.info, max_choices=self.bounds.max_choices)

    @property
    def counts_tokens(self) -> bool:
        return Feature.COUNT_TOKENS in self.backend.info.capabilities

    def engine_request_id(self, response_id: str) -> str:
        """Unique, although two clients may send the same id."""
        return f"{response_id}-{next(self._serials)}"
