"""What an engine said to a planned request, token by token where it tells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.files import write_atomically
from enginebay.loadtest.records import Record
from enginebay.types import TokenLogprob

FILE_NAME = "answers.jsonl"


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    index: int
    """Of the planned request."""
    text: str
    num_tokens: int
    token_ids: tuple[int, ...] | None = None
    """None where the engine gives the text alone."""
    retokenized_ids: tuple[int, ...] | None = None
    """Of the text encoded again; None where nobody had a tokenizer."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One for each token; None where they were not asked for, or the engine has none."""


class AnswerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of answers.jsonl."""

    label: str
    answer: Answer


def answers_of_records(records: Iterable[Record]) -> list[Answer]:
    """Of requests that were answered; a failed one said nothing that could be compared."""
    return [
        Answer(
            index=record.index,
            text=record.text,
            num_tokens=_num_tokens(record),
            token_ids=_all_token_ids(record),
            retokenized_ids=None if record.retokenized_ids is None else tuple(record.retokenized_ids),
        )
        for record in records
        if record.is_finished
    ]


def write_answers(path: Path, lines: Iterable[AnswerLine]) -> None:
    write_atomically(path, msgspec.json.Encoder().encode_lines(lines))


def read_answers(path: Path) -> list[AnswerLine]:
    try:
        return msgspec.json.Decoder(AnswerLine).decode_lines(path.read_bytes())
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{path}: is not a file of answers: {error}") from error


def _num_tokens(record: Record) -> int:
    if record.num_output_tokens is not None:
        return record.num_output_tokens
    return sum(arrival.num_tokens for arrival in record.arrivals)


def _all_token_ids(record: Record) -> tuple[int, ...] | None:
    """None also where some are missing: half an answer would part where it ends."""
    if record.token_ids is None or len(record.token_ids) != _num_tokens(record):
        return None
    return tuple(record.token_ids)
