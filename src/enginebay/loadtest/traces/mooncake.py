"""Mooncake's JSONL: `timestamp` in milliseconds, `input_length`, `output_length`, `hash_ids` of 512-token blocks.

A hash id stands for a block and everything before it. The published traces have an id for the last block too, full or
not; tools that write the format leave that one out, or use smaller blocks, and say so nowhere: the size is found in
the lengths. Source: github.com/kvcache-ai/Mooncake, FAST25-release/traces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.files import write_atomically
from enginebay.loadtest.traces.trace import Trace, TracedRequest, from_zero

BLOCK_TOKENS = 512
"""Of the published traces."""
_OTHER_SIZES = (16, 32, 64, 128, 256, 1024, 2048, 4096, 8, 4, 2, 1)


class MooncakeLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request. Keys that only other tools write are not read."""

    timestamp: int | float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


_decoder = msgspec.json.Decoder(MooncakeLine)
_encoder = msgspec.json.Encoder()


def read_mooncake(path: Path, *, block_tokens: int | None = None) -> Trace:
    """block_tokens: else found in the lengths. Raises LoadTestError naming the line.

    A request without output (cancelled before its first token) is replayed with one token: its prompt was work, too.
    """
    lines = _read_lines(path)
    return Trace(
        name=path.name,
        requests=from_zero([_traced(line) for line in lines]),
        block_tokens=_block_tokens(path, lines, block_tokens),
    )


def encode_line(line: MooncakeLine) -> bytes:
    """With its newline; whole milliseconds, as the published traces have them."""
    return _encoder.encode(line) + b"\n"


def sort_by_arrival(path: Path) -> None:
    """Put lines that were written when their requests ended into the order of the format."""
    lines = sorted(_read_lines(path), key=lambda line: line.timestamp)
    write_atomically(path, b"".join(map(encode_line, lines)))


def _read_lines(path: Path) -> list[MooncakeLine]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    numbered = ((f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip())
    return [_line(line, place) for place, line in numbered]


def _line(line: bytes, place: str) -> MooncakeLine:
    try:
        return _checked(_decoder.decode(line), place)
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{place}: is no line of Mooncake's trace format: {error}") from error


def _checked(line: MooncakeLine, place: str) -> MooncakeLine:
    if line.input_length < 1 or line.output_length < 0:
        raise LoadTestError(f"{place}: has {line.input_length} tokens in and {line.output_length} out")
    return line


def _traced(line: MooncakeLine) -> TracedRequest:
    return TracedRequest(
        at=line.timestamp / 1000,
        num_input_tokens=line.input_length,
        num_output_tokens=max(1, line.output_length),
        hash_ids=line.hash_ids,
    )


def _block_tokens(path: Path, lines: Sequence[MooncakeLine], given: int | None) -> int | None:
    hashed = [line for line in lines if line.hash_ids]
    if not hashed:
        return None
    for size in (given,) if given else (BLOCK_TOKENS, *_OTHER_SIZES):
        if all(_has_blocks_of(line, size) for line in hashed):
            return size
    tried = f"blocks of {given} tokens" if given else "blocks of any usual size"
    raise LoadTestError(f"{path}: its hash_ids are too many or too few for {tried}: give the size as block_tokens")


def _has_blocks_of(line: MooncakeLine, size: int) -> bool:
    """With the last, unfinished block or without it."""
    return len(line.hash_ids) in (-(-line.input_length // size), line.input_length // size)
