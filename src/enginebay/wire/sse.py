"""Server-sent events out of bytes that arrive in any pieces (WHATWG HTML, section 9.2.6).

One departure: `id` and `retry` are ignored, since nothing here reconnects.
"""

from __future__ import annotations

import msgspec

from enginebay.errors import UpstreamError

DONE = b"[DONE]"
DEFAULT_MAX_EVENT_BYTES = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class SseEvent(msgspec.Struct, frozen=True, gc=False):
    data: bytes
    """Lines of `data:` fields, joined by a line feed; UTF-8, not yet checked."""
    name: bytes = b""
    """The `event:` field; empty for the usual message."""


class SseParser:
    """Feed it pieces as they come; an event is given out with the piece that completes it."""

    def __init__(self, *, max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest: list[bytes] = []
        self._num_rest_bytes = 0
        self._data: list[bytes] = []
        self._name = b""
        self._num_event_bytes = 0
        self._is_at_start = True
        self._skip_line_feed = False

    def feed(self, piece: bytes) -> list[SseEvent]:
        """Raises UpstreamError when one event is longer than the bound."""
        if not piece:
            return []
        is_between_events = not (self._rest or self._data or self._name or self._skip_line_feed)
        if is_between_events and len(piece) <= self._max_event_bytes:
            events = _usual_events(piece)
            if events is not None:
                self._is_at_start = False
                return events
        return self._feed_lines(piece)

    @property
    def is_inside_event(self) -> bool:
        """True when the bytes so far end in the middle of one, which a stream that ends here has lost."""
        return bool(self._rest or self._data)

    def _feed_lines(self, piece: bytes) -> list[SseEvent]:
        events: list[SseEvent] = []
        for line in self._whole_lines(piece):
            self._num_event_bytes += len(line)
            if line:
                self._field(line)
            else:
                if self._data:
                    events.append(SseEvent(b"\n".join(self._data), self._name))
                self._data, self._name, self._num_event_bytes = [], b"", 0
            self._check_size()
        self._check_size()
        return events

    def _whole_lines(self, piece: bytes) -> list[bytes]:
        """What is not yet a line stays in `_rest`. A line ends in LF, CRLF or CR."""
        if self._skip_line_feed and piece:
            piece = piece.removeprefix(b"\n")  # the second half of a CRLF
            self._skip_line_feed = False
        if b"\r" in piece:
            self._skip_line_feed = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._rest.append(piece)  # joined only when a line ends: an event of many pieces is copied once
        self._num_rest_bytes += len(piece)
        if b"\n" not in piece:
            return []
        *lines, rest = b"".join(self._rest).split(b"\n")
        self._rest, self._num_rest_bytes = [rest] if rest else [], len(rest)
        if self._is_at_start:
            self._is_at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        return lines

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value

    def _check_size(self) -> None:
        if self._num_event_bytes + self._num_rest_bytes > self._max_event_bytes:
            raise UpstreamError(f"an event of the stream is longer than {self._max_event_bytes} bytes")


def _usual_events(piece: bytes) -> list[SseEvent] | None:
    """The quick path: nothing but whole events of one `data: ` line each; None if the piece is anything else."""
    if not piece.endswith(b"\n\n") or b"\r" in piece:
        return None
    events: list[SseEvent] = []
    for block in piece[:-2].split(b"\n\n"):
        if not block.startswith(b"data: ") or b"\n" in block:
            return None
        events.append(SseEvent(block[6:]))
    return events
