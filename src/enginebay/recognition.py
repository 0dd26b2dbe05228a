"""How the engine behind a running server is recognised: each plugin knows what only its own engine answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

MODELS_PATH = "/v1/models"
"""Always among the answers: nearly every server has the list."""
METRICS_PATH = "/metrics"
"""Asked last, and only where nothing else showed who it is: one engine hands out what it tells there once, so that a
reading is taken from whoever reads next."""
OUR_SERVER = "enginebay"
"""Owner of the models of `enginebay serve`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """To a GET. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


Answers = Mapping[str, Answer]
"""By path; one that was not answered at all is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    paths: tuple[str, ...] = ()
    """What is asked besides `MODELS_PATH`."""
    evidence: Callable[[Answers], str | None]
    """What shows that the server is this kind's engine, in words; None where nothing does. Pure."""


class _Card(msgspec.Struct):
    id: str
    owned_by: str | None = None
    root: str | None = None
    kind: object = None


class _Models(msgspec.Struct):
    data: list[_Card]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    id: str
    owned_by: str | None
    root: str | None
    """What the server loaded, where it tells."""
    kind: str | None = None
    """Of the backend behind a server of this project; None for any other, which may mean anything by it."""


def listed_models(answers: Answers) -> tuple[ListedModel, ...] | None:
    """None where `MODELS_PATH` gave no model list."""
    answer = answers.get(MODELS_PATH)
    if answer is None or answer.status != 200:
        return None
    try:
        cards = msgspec.json.decode(answer.body, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return tuple(
        ListedModel(id=card.id, owned_by=card.owned_by, root=card.root, kind=_kind_behind(card)) for card in cards
    )


def _kind_behind(card: _Card) -> str | None:
    if card.owned_by != OUR_SERVER or not isinstance(card.kind, str):
        return None
    return card.kind if re.fullmatch(r"[a-z][a-z0-9_]*", card.kind) else None


def owner_evidence(answers: Answers, owner: str) -> str | None:
    """The model list names its owner."""
    owners = {model.owned_by for model in listed_models(answers) or ()}
    return f"its models are owned by {owner!r}" if owner in owners else None


def metric_evidence(answers: Answers, prefix: str, *, path: str = METRICS_PATH) -> str | None:
    """A metric whose name begins with `prefix`."""
    answer = answers.get(path)
    if answer is None or answer.status != 200:
        return None
    has_any = any(line.startswith(prefix) for line in answer.text.splitlines())
    return f"{path} has metrics named {prefix}..." if has_any else None


def json_object(answers: Answers, path: str) -> Mapping[str, object]:
    """The body of a 200 where that is a JSON object, else an empty one."""
    answer = answers.get(path)
    if answer is None or answer.status != 200:
        return {}
    try:
        return msgspec.json.decode(answer.body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
