"""What the routes work with, of the whole server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from enginebay.clock import Clock
from enginebay.errors import InvalidRequest, UnknownModel
from enginebay.gateway.bounds import Bounds
from enginebay.gateway.call import Call, Client
from enginebay.gateway.doorkeeper import Doorkeeper
from enginebay.gateway.exchange import Exchange
from enginebay.gateway.hooks import Hooks
from enginebay.gateway.models.served_model import ModelCatalog, ServedModel
from enginebay.gateway.passage import Passage
from enginebay.gateway.sessions import with_session
from enginebay.types import BackendInfo, GenerationRequest
from enginebay.wire.openai_to_request import Target


@dataclass(slots=True, kw_only=True)
class Served:
    """Models, bounds, door and hooks are read anew for each request: a reload replaces them between two."""

    models: ModelCatalog
    door: Doorkeeper
    hooks: Hooks
    bounds: Bounds
    log: FilteringBoundLogger
    clock: Clock
    """The backends'."""
    is_ending: Callable[[], bool]
    counts_prompts: bool = False
    """Whether hooks want to know how many tokens a prompt has before anything is done with it."""
    collectors: Sequence[Collector] = ()
    """Of metrics that are no replica's."""
    num_errors_by_code: Counter[str] = field(default_factory=Counter[str])
    """Requests that were answered with an error, calls or not."""
    _serials: count[int] = field(default_factory=count)

    def model(self, name: str | None, client: Client) -> ServedModel:
        """None is the only one there is. Raises UnknownModel also for one that this client may not use."""
        if name is None:
            name = self._only_model(client)
        model = self.models.find(name) if client.models is None or name in client.models else None
        if model is None:
            raise UnknownModel(name, available=[*self.names_for(client)])
        return model

    def names_for(self, client: Client) -> Iterable[str]:
        names = self.models.names()
        return names if client.models is None else [name for name in names if name in client.models]

    def _only_model(self, client: Client) -> str:
        names = [*self.names_for(client)]
        if len(names) != 1:
            raise InvalidRequest(f"'model' is missing; there are: {', '.join(names) or 'none'}", field="model")
        return names[0]

    def target(self, info: BackendInfo) -> Target:
        return Target(info=info, max_choices=self.bounds.max_choices)

    def engine_request_id(self, response_id: str) -> str:
        """Unique, although two clients may send the same id."""
        return f"{response_id}-{next(self._serials)}"

    def passage(
        self,
        exchange: Exchange,
        model: ServedModel,
        requests: Sequence[GenerationRequest],
        *,
        choices_per_prompt: int = 1,
        num_prompt_tokens: int | None = None,
    ) -> Passage:
        """num_prompt_tokens: where they were counted already. Raises InvalidRequest, and is no call then."""
        requests = with_session(requests, exchange)
        exchange.has_call = True
        call = Call(
            request_id=exchange.request_id,
            client=exchange.client,
            model=model.name,
            requests=requests,
            arrived_at=exchange.arrived_at,
            body_bytes=exchange.num_body_bytes,
            version=model.version,
            num_prompt_tokens=num_prompt_tokens,
            answer_headers=exchange.answer_headers,
        )
        return Passage(
            call,
            model,
            choices_per_prompt=choices_per_prompt,
            hooks=self.hooks,
            clock=self.clock,
            is_ending=self.is_ending,
            counts_prompts=self.counts_prompts,
        )
