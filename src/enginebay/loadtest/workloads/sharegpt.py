"""Conversations in ShareGPT's form: `conversations`, a list of `{"from": "human" | "gpt", "value": ...}`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.plan import PlannedMessage
from enginebay.loadtest.workloads.dataset import Entry

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
}


def read_sharegpt(path: Path) -> tuple[Entry, ...]:
    """A JSON list, or one conversation a line. What comes before the first question is dropped, but a system message.

    Conversations in which nobody asks, or where somebody speaks twice in a row, are of no use and left out. Raises
    LoadTestError for another form, an unknown speaker, or a file without a usable conversation.
    """
    entries = tuple(entry for number, one in enumerate(_items(path)) if (entry := _entry(one, f"{path}:{number}")))
    if not entries:
        raise LoadTestError(f"{path}: has no conversation with a question")
    return entries


def _items(path: Path) -> list[Any]:
    try:
        data = path.read_bytes()
        if data.lstrip().startswith(b"["):
            return msgspec.json.decode(data, type=list[Any])
        return msgspec.json.Decoder(Any).decode_lines(data)
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{path}: is neither a JSON list nor JSON lines: {error}") from error


def _entry(item: Any, place: str) -> Entry | None:
    if not isinstance(item, dict) or not isinstance(item.get("conversations"), list):
        raise LoadTestError(f"{place}: is no conversation in ShareGPT's form: it has no list `conversations`")
    messages = [_message(turn, place) for turn in item["conversations"]]
    kept = _from_first_question(messages)
    return Entry(place=place, messages=tuple(kept)) if kept and _alternates(kept) else None


def _message(turn: Any, place: str) -> PlannedMessage:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise LoadTestError(f"{place}: a turn has no text `value`")
    role = ROLES.get(str(turn.get("from")))
    if role is None:
        raise LoadTestError(f"{place}: nobody knows the speaker {turn.get('from')!r}: {', '.join(ROLES)} are known")
    return PlannedMessage(role=role, content=turn["value"])


def _from_first_question(messages: Sequence[PlannedMessage]) -> list[PlannedMessage]:
    first = next((index for index, message in enumerate(messages) if message.role == "user"), None)
    if first is None:
        return []
    return [message for message in messages[:first] if message.role == "system"] + list(messages[first:])


def _alternates(messages: Sequence[PlannedMessage]) -> bool:
    """Chat templates refuse anything else, and an empty question is none."""
    spoken = [message for message in messages if message.role != "system"]
    expected = ("user", "assistant")
    return all(message.role == expected[index % 2] and message.content for index, message in enumerate(spoken))
