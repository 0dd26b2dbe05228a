"""What the routes ask of models. The thin server has one backend behind it, the gateway pools of replicas."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Protocol

from enginebay.gateway.call import Call
from enginebay.monitoring.exporter import Exporter
from enginebay.types import BackendInfo, Feature, GenerationChunk, GenerationRequest, Health, Prompt


class ServedModel(Protocol):
    """One alias, resolved to one version at the moment of a call; the alias may move meanwhile."""

    @property
    def name(self) -> str:
        """The alias that clients use."""
        ...

    @property
    def version(self) -> str:
        """Empty where there are no versions."""
        ...

    @property
    def info(self) -> BackendInfo:
        """What all that serve it can do: a feature that one replica lacks is not among its capabilities."""
        ...

    @property
    def default_max_tokens(self) -> int | None:
        """For a request that names none; None is what the API itself says (16, or the rest of the context)."""
        ...

    @property
    def created_at_unix(self) -> int: ...

    def demand_ready(self) -> None:
        """Raises what keeps it from being served: NotStarted, StartFailed, BackendUnavailable."""
        ...

    def stream(self, call: Call, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """One choice of the call. Appends its attempts to the call, and runs the hooks before the engine.

        Like `Backend.generate`: what cannot be asked is refused at the call, and no work begins before the first
        `__anext__`. `call.num_received_tokens`, `first_token_at` and `num_prompt_tokens` are written by its consumer.
        """
        ...

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]: ...


class ModelCatalog(Protocol):
    """All models of one server, from its start to its end."""

    def names(self) -> Sequence[str]:
        """The aliases, in the order of the config."""
        ...

    def find(self, name: str) -> ServedModel | None: ...

    def exporters(self) -> Iterable[Exporter]:
        """One for each replica."""
        ...

    @property
    def is_simulated(self) -> bool:
        """Whether any answer may be made up."""
        ...

    def begin(self) -> None:
        """Start what serves, in the background."""
        ...

    async def wait_until_ready(self) -> None:
        """Until each model can be served. Raises what made a start fail for good."""
        ...

    async def health(self) -> Health:
        """Of all models together; never through the data path, and within two seconds. Ready with a reason: what of
        them is lost."""
        ...

    async def wait_until_dead(self) -> str:
        """The reason, once only a restart of the server helps; forever where replicas are restarted here."""
        ...

    async def end(self) -> None: ...


def can_count_tokens(info: BackendInfo) -> bool:
    return Feature.COUNT_TOKENS in info.capabilities
