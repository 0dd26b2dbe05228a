"""A request whose answer is kept as the bytes that came, with their instants, and decoded when there is time.

For a load test: while it measures, nothing is parsed, and no task wakes for a piece in the middle of an answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from enginebay.backends.http_engine.api import HttpCall
from enginebay.errors import BackendUnavailable, EngineBayError, StreamContractViolated
from enginebay.types import GenerationChunk
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_stream import HttpStream, Piece
from enginebay.wire.http_types import HttpTimeouts

ErrorOf = Callable[[int, bytes, Mapping[str, str]], EngineBayError]


class KeptAnswer:
    """Single use: `exchange`, then `decode`. While it is under way, `look` now and then."""

    __slots__ = (
        "_call",
        "_chunks",
        "_client",
        "_error",
        "_error_of",
        "_fault",
        "_guarded",
        "_head",
        "_pieces",
        "_stream",
        "_timeouts",
    )

    def __init__(
        self,
        call: HttpCall,
        head: bytes,
        *,
        client: HttpClient,
        timeouts: HttpTimeouts,
        error_of: ErrorOf,
        guarded: Callable[[Awaitable[None]], Awaitable[None]],
    ) -> None:
        """error_of: the error that a status stands for. guarded: awaits, and knows when the server itself has ended."""
        self._call, self._head, self._client, self._timeouts = call, head, client, timeouts
        self._error_of, self._guarded = error_of, guarded
        self._stream: HttpStream | None = None
        self._pieces: list[Piece] = []
        self._chunks: list[GenerationChunk] = []
        """Of the pieces that were looked at."""
        self._error: EngineBayError | None = None
        self._fault: EngineBayError | None = None
        """What a piece had in it that is no part of an answer."""

    @property
    def num_bytes(self) -> int:
        """Of the answer, as far as it has come and is not decoded."""
        under_way = self._stream.num_buffered_bytes if self._stream is not None else 0
        return under_way + sum([len(data) for data, _ in self._pieces])

    async def exchange(self) -> None:
        """Send, and return when the answer has ended or failed: `decode` tells which.

        Cancelled, it closes the connection and keeps what has come.
        """
        try:
            await self._guarded(self._collect())
        except EngineBayError as error:
            self._error = error

    async def _collect(self) -> None:
        stream = None
        try:
            stream = self._stream = await self._client.send(self._head, self._call.body, timeouts=self._timeouts)
            await stream.collect(self._client.max_body_bytes)
        except BaseException:
            if stream is not None:
                self._pieces = stream.take()
                stream.abort()
            raise
        self._pieces = stream.take()
        stream.release()  # no more than its last bytes are missing

    def look(self) -> bool:
        """Decode the next piece of a streamed answer that is under way; False where there is none.

        A piece that is malformed, or tells an error, ends the exchange: a server that sends such a thing may keep the
        stream open for ever.
        """
        stream, decoder = self._stream, self._call.decoder
        if stream is None or not self._is_streamed_by(stream) or self._fault is not None or decoder.is_finished:
            return False
        piece = stream.take_first()
        if piece is None:
            return False
        try:
            self._chunks.extend(decoder.feed(*piece))
        except EngineBayError as fault:
            self._fault = fault
            stream.give_up(fault)
        return True

    def _is_streamed_by(self, stream: HttpStream) -> bool:
        is_whole = stream.headers.get("content-type", "").startswith("application/json")
        return stream.status == 200 and self._call.is_streamed and not is_whole

    def decode(self, chunks: list[GenerationChunk]) -> Iterator[None]:
        """Add the chunks in their order. Pauses after each piece: a long answer takes long.

        Raises the error that ended the answer, if one did, when all that came before it has been added.
        """
        stream, decoder, pieces = self._stream, self._call.decoder, self._pieces
        self._pieces = []
        if stream is None or stream.status != 200:
            raise self._failure(pieces)
        if not self._is_streamed_by(stream):
            if self._error is not None:
                raise self._error
            chunks.append(decoder.whole(_joined(pieces), stream.received_at))
            return
        chunks.extend(self._chunks)
        if self._fault is not None:
            raise self._fault
        for data, received_at in pieces:
            if decoder.is_finished:
                break
            chunks.extend(decoder.feed(data, received_at))
            yield
        if not decoder.is_finished:
            if self._error is not None:
                raise self._error
            chunks.extend(decoder.end(stream.received_at))
        if not chunks or chunks[-1].finish_reason is None or chunks[-1].usage is None:
            raise StreamContractViolated("the stream ended without a last chunk (finish_reason and usage)")

    def _failure(self, pieces: Sequence[Piece]) -> EngineBayError:
        if self._error is not None:
            return self._error
        if self._stream is None:
            return BackendUnavailable("the request was stopped before it was answered")
        return self._error_of(self._stream.status, _joined(pieces), self._stream.headers)


def _joined(pieces: Sequence[Piece]) -> bytes:
    return b"".join(data for data, _ in pieces)
