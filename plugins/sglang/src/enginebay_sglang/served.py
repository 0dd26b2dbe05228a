"""Which model a server has. It answers to any name in a request; only its list knows the right one."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from enginebay.backend import BackendContext
from enginebay.backends.launch import container_model_argument, model_argument
from enginebay.errors import ConfigError, StartFailed, UpstreamError


@dataclass(frozen=True, slots=True)
class Card:
    id: str
    root: str | None = None
    """What the server loaded, where that is not its name."""
    max_model_len: int | None = None


class _Cards(msgspec.Struct):
    data: list[Card]


def served_names(context: BackendContext) -> tuple[str, ...]:
    """Under which names the model that is meant may be listed: the one that it is served under, else its own."""
    if served := context.settings.get("served_model_name"):
        return (str(served),)
    try:
        places = (model_argument(context.model), container_model_argument(context.model))
    except ConfigError:
        places = ()  # a name that the server alone knows
    return tuple(dict.fromkeys((context.model, *places)))


def find_card(answer: bytes, names: tuple[str, ...], *, backend: str) -> Card:
    """Of /v1/models. Raises StartFailed for a server of another model."""
    try:
        cards = msgspec.json.decode(answer, type=_Cards).data
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError(f"/v1/models answered with no model list: {error}", backend=backend) from error
    found = next((card for card in cards if card.id in names or card.root in names), None)
    if found is None:
        served = ", ".join(repr(card.id) for card in cards) or "none"
        raise StartFailed(
            f"{backend}: the server has no model {names[0]!r}; it serves {served}",
            backend=backend,
            likely_cause="another model, or the same by another name: then set engine.served_model_name",
        )
    return found
