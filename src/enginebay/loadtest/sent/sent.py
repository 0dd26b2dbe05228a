"""One request as it was given to its socket: digests and fields, and no text. sent.jsonl has a line for each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.files import write_atomically
from enginebay.loadtest.records import RunKey

FILE_NAME = "sent.jsonl"

PromptForm = Literal["text", "token_ids", "messages", "unknown"]


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    """Of the planned request, from the id that the request carried."""
    at: float
    """Seconds from the start of the run, as in its records."""
    path: str
    num_bytes: int
    """Of the body."""
    body_sha256: str
    load_sha256: str
    """Of the body without the model's name and the request's id: equal bytes, equal load."""
    prompt_form: PromptForm
    prompt_sha256: str
    sampling: dict[str, object]
    """Each sampling field that the body has, under our name and in our values."""
    others: dict[str, object]
    """Every further field but the prompt, the model's name and the request's id, as it stands in the body."""


class SentLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of sent.jsonl."""

    run: RunKey
    sent: Sent


def write_sent(path: Path, lines: Iterable[SentLine]) -> None:
    write_atomically(path, msgspec.json.Encoder().encode_lines(lines))


def read_sent(path: Path) -> list[SentLine]:
    try:
        return msgspec.json.Decoder(SentLine).decode_lines(path.read_bytes())
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{path}: is not a file of what was sent: {error}") from error
