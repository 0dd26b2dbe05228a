"""What happened to one request. Instants are seconds from the start of its run, on the clock that stamped the bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.files import write_atomically
from enginebay.loadtest.plan import Load

INTERRUPTED = "Interrupted"
"""`error_class` of a request that was on its way when the load test was stopped: neither answered nor failed."""


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """A chunk with tokens: they all share the instant at which its bytes were there."""

    at: float
    num_tokens: int


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    index: int
    scheduled_at: float
    """Open loop: the planned offset. Closed loop: when a user was free to ask."""
    sent_at: float
    ended_at: float
    """The end of the stream, or of the attempt."""
    arrivals: list[Arrival] = []
    num_chunks: int = 0
    """All of them, those without a token included."""
    num_uncounted_chunks: int = 0
    """Chunks with text whose engine did not say how many tokens they carry; each is taken as one token."""
    num_planned_prompt_tokens: int
    max_tokens: int
    num_prompt_tokens: int | None = None
    """This and the following: from the engine's usage."""
    num_output_tokens: int | None = None
    num_cached_tokens: int | None = None
    num_discarded_tokens: int | None = None
    num_retokenized_tokens: int | None = None
    """Our own count of the text that came back, beside the engine's."""
    retokenized_ids: list[int] | None = None
    """What was counted: so that saved answers can be compared token by token where no tokenizer is at hand."""
    text: str = ""
    token_ids: list[int] | None = None
    """Of the output, where the engine tells them with every piece of text."""
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    error_class: str | None = None
    error_message: str | None = None

    @property
    def is_finished(self) -> bool:
        return self.error_class is None

    @property
    def is_error(self) -> bool:
        return self.error_class is not None and self.error_class != INTERRUPTED

    @property
    def first_token_at(self) -> float | None:
        return self.arrivals[0].at if self.arrivals else None

    @property
    def last_token_at(self) -> float | None:
        return self.arrivals[-1].at if self.arrivals else None


class RunKey(msgspec.Struct, frozen=True, kw_only=True):
    """Which run of a result: equal keys in result.json, records.jsonl and timeseries.jsonl belong together."""

    label: str
    load: Load
    start_index: int = 0
    repeat: int = 0


class RecordLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of records.jsonl."""

    run: RunKey
    record: Record


def write_records(path: Path, lines: Iterable[RecordLine]) -> None:
    encoder = msgspec.json.Encoder()
    write_atomically(path, encoder.encode_lines(lines))


def read_records(path: Path) -> list[RecordLine]:
    try:
        return msgspec.json.Decoder(RecordLine).decode_lines(path.read_bytes())
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{path}: is not a file of records: {error}") from error
