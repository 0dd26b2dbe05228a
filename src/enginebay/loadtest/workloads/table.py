"""Any JSONL or CSV file, by the names of its fields."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.plan import PlannedMessage
from enginebay.loadtest.workloads.dataset import Entry

_ROLES = frozenset({"system", "user", "assistant"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFields:
    """Names of fields: one of `prompt` and `messages`, the others where the file has them."""

    prompt: str | None = "prompt"
    messages: str | None = None
    """A list of `{"role": ..., "content": ...}`, as the OpenAI API has it; in JSONL only."""
    answer: str | None = None
    output_tokens: str | None = None


def read_table(path: Path, fields: TableFields) -> tuple[Entry, ...]:
    """Raises LoadTestError naming the line that has not what it should."""
    entries = tuple(_entry(row, fields, f"{path}:{number}") for number, row in _rows(path))
    if not entries:
        raise LoadTestError(f"{path}: is empty")
    return entries


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file, _long_fields():
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(file)
                yield from ((reader.line_num, row) for row in reader)
            else:
                yield from (
                    (number, _json(line, f"{path}:{number}"))
                    for number, line in enumerate(file, start=1)
                    if line.strip()
                )
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise LoadTestError(f"{path}: cannot be read: {error}") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Of CSV, whose reader takes no more than 131,072 characters by itself: less than a long prompt has."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _json(line: str, place: str) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(line.encode(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{place}: is no JSON object: {error}") from error


def _entry(row: Mapping[str, Any], fields: TableFields, place: str) -> Entry:
    answer = _text(row, fields.answer, place) if fields.answer else None
    num_output = _count(row, fields.output_tokens, place) if fields.output_tokens else None
    if fields.messages:
        messages = _messages(row, fields.messages, place)
        if answer is not None:
            messages = (*messages, PlannedMessage(role="assistant", content=answer))
        return Entry(place=place, messages=messages, is_one_request=True, num_output_tokens=num_output)
    text = _text(row, fields.prompt or "prompt", place)
    return Entry(place=place, text=text, answer=answer, num_output_tokens=num_output)


def _text(row: Mapping[str, Any], name: str, place: str) -> str:
    value = _value(row, name, place)
    if not isinstance(value, str) or not value:
        raise LoadTestError(f"{place}: field {name!r} is no text")
    return value


def _count(row: Mapping[str, Any], name: str, place: str) -> int:
    value = _value(row, name, place)
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise LoadTestError(f"{place}: field {name!r} is no whole number") from error
    if number < 1 or isinstance(value, bool):
        raise LoadTestError(f"{place}: field {name!r} is {value!r}, not a number of at least 1")
    return number


def _messages(row: Mapping[str, Any], name: str, place: str) -> tuple[PlannedMessage, ...]:
    try:
        messages = msgspec.convert(_value(row, name, place), type=tuple[PlannedMessage, ...])
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{place}: field {name!r} is no list of messages with role and content: {error}") from error
    roles = {message.role for message in messages}
    if unknown := roles - _ROLES:
        raise LoadTestError(f"{place}: field {name!r} has the role {sorted(unknown)[0]!r}")
    if "user" not in roles:
        raise LoadTestError(f"{place}: field {name!r} has no message of a user")
    return messages


def _value(row: Mapping[str, Any], name: str, place: str) -> Any:
    if name not in row or row[name] is None:
        raise LoadTestError(f"{place}: has no field {name!r}; it has {', '.join(map(str, row)) or 'none'}")
    return row[name]
