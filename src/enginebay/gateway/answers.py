"""From requests to the bytes of an answer: whole, or as a stream of events."""

from __future__ import annotations

from contextlib import aclosing

from structlog.typing import FilteringBoundLogger

from enginebay.gateway.arrivals import in_order_of_arrival
from enginebay.gateway.body import ClientGone
from enginebay.gateway.coalesce import Coalescer, merged
from enginebay.gateway.exchange import EVENT_STREAM_HEADERS, JSON_HEADERS, Exchange
from enginebay.gateway.passage import Passage
from enginebay.types import GenerationChunk
from enginebay.wire.openai_errors import wire_form
from enginebay.wire.openai_responses import DONE, ResponseEncoder, ResponseOptions, error_event, has_content


async def generate_whole(exchange: Exchange, passage: Passage) -> list[GenerationChunk]:
    """One merged chunk for each choice, in their order. A client that leaves cancels all of them."""
    pieces: list[list[GenerationChunk]] = [[] for _ in passage.call.requests]
    async with exchange.while_client_listens():
        streams = await passage.admit()
        async with aclosing(in_order_of_arrival(streams)) as arrivals:
            async for index, chunk in arrivals:
                passage.received(index, chunk)
                pieces[index].append(chunk)
    passage.finish()
    return [merged(chunks) for chunks in pieces]


async def answer_whole(exchange: Exchange, passage: Passage, encoder: ResponseEncoder) -> None:
    answers = await generate_whole(exchange, passage)
    await exchange.respond(200, encoder.final(answers, passage.usage()), JSON_HEADERS)


async def answer_streaming(
    exchange: Exchange,
    passage: Passage,
    encoder: ResponseEncoder,
    options: ResponseOptions,
    *,
    stream_interval: int,
    log: FilteringBoundLogger,
) -> None:
    """An error before the first token has its own status; later it is an event in the stream, then `[DONE]`."""
    writer = EventWriter(exchange, passage, encoder, options, stream_interval=stream_interval)
    try:
        async with exchange.while_client_listens():
            streams = await passage.admit()
            async with aclosing(in_order_of_arrival(streams)) as arrivals:
                async for index, chunk in arrivals:
                    await writer.take(index, chunk)
    except ClientGone:
        raise
    except Exception as error:
        if not exchange.has_begun:
            raise
        passage.fail(error)
        await _end_with_error(exchange, error, log)


async def _end_with_error(exchange: Exchange, error: Exception, log: FilteringBoundLogger) -> None:
    form = wire_form(error)
    if form.status >= 500:
        log.error("stream failed", request_id=exchange.request_id, code=form.code, exc_info=error)
    else:
        log.info("stream ended early", request_id=exchange.request_id, code=form.code)
    if not exchange.has_ended:
        async with exchange.while_client_listens():
            await exchange.write(error_event(error) + DONE, is_last=True)


class EventWriter:
    """Writes the chunks of all choices as events; the first chunk opens the answer, the last one ends it."""

    __slots__ = ("_coalescers", "_encoder", "_exchange", "_num_open", "_options", "_passage")

    def __init__(
        self,
        exchange: Exchange,
        passage: Passage,
        encoder: ResponseEncoder,
        options: ResponseOptions,
        *,
        stream_interval: int,
    ) -> None:
        self._exchange, self._passage, self._encoder, self._options = exchange, passage, encoder, options
        self._num_open = options.num_choices
        self._coalescers = [Coalescer(stream_interval) for _ in range(options.num_choices * (stream_interval > 1))]

    async def take(self, index: int, chunk: GenerationChunk) -> None:
        self._passage.received(index, chunk)
        ready = self._coalescers[index].add(chunk) if self._coalescers else chunk
        if ready is None or not has_content(ready):
            return
        usage = self._passage.usage_of_choice(index) if self._options.continuous_usage else None
        data = b"" if self._exchange.has_begun else self._encoder.opening()
        data += self._encoder.piece(index, ready, usage)
        if ready.finish_reason is not None:
            self._num_open -= 1
            if not self._num_open:
                self._passage.finish()
                data += self._ending()
        if not self._exchange.has_begun:
            await self._exchange.begin(200, EVENT_STREAM_HEADERS)
        await self._exchange.write(data, is_last=not self._num_open)

    def _ending(self) -> bytes:
        return self._encoder.usage_piece(self._passage.usage()) + DONE if self._options.include_usage else DONE
