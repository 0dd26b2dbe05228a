"""From requests to the bytes of an answer: whole, or as a stream of events."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from enginebay.gateway.arrivals import in_order_of_arrival
from enginebay.gateway.body import ClientGone
from enginebay.gateway.coalesce import Coalescer, merged
from enginebay.gateway.exchange import EVENT_STREAM_HEADERS, JSON_HEADERS, Exchange
from enginebay.gateway.served import Served
from enginebay.types import GenerationChunk, GenerationRequest
from enginebay.wire.openai_errors import wire_form
from enginebay.wire.openai_responses import DONE, ResponseEncoder, ResponseOptions, error_event, has_content
from enginebay.wire.openai_usage import UsageTally, total_usage


async def generate_whole(
    exchange: Exchange, served: Served, requests: Sequence[GenerationRequest]
) -> list[GenerationChunk]:
    """One merged chunk for each request, in their order. A client that leaves cancels all of them."""
    streams = [served.backend.generate(request) for request in requests]  # refuses before any work begins
    pieces: list[list[GenerationChunk]] = [[] for _ in requests]
    async with exchange.while_client_listens(), aclosing(in_order_of_arrival(streams)) as arrivals:
        async for index, chunk in arrivals:
            pieces[index].append(chunk)
    return [merged(chunks) for chunks in pieces]


async def answer_whole(
    exchange: Exchange,
    served: Served,
    requests: Sequence[GenerationRequest],
    encoder: ResponseEncoder,
    options: ResponseOptions,
) -> None:
    answers = await generate_whole(exchange, served, requests)
    usage = total_usage(answers, choices_per_prompt=options.choices_per_prompt)
    await exchange.respond(200, encoder.final(answers, usage), JSON_HEADERS)


async def answer_streaming(
    exchange: Exchange,
    served: Served,
    requests: Sequence[GenerationRequest],
    encoder: ResponseEncoder,
    options: ResponseOptions,
    *,
    stream_interval: int,
) -> None:
    """An error before the first token has its own status; later it is an event in the stream, then `[DONE]`."""
    writer = EventWriter(exchange, encoder, options, stream_interval=stream_interval)
    streams = [served.backend.generate(request) for request in requests]
    try:
        async with exchange.while_client_listens(), aclosing(in_order_of_arrival(streams)) as arrivals:
            async for index, chunk in arrivals:
                await writer.take(index, chunk)
    except ClientGone:
        raise
    except Exception as error:
        if not exchange.has_begun:
            raise
        form = wire_form(error)
        if form.status >= 500:
            served.log.error("stream failed", request_id=exchange.request_id, code=form.code, exc_info=error)
        else:
            served.log.info("stream ended early", request_id=exchange.request_id, code=form.code)
        if not exchange.has_ended:
            async with exchange.while_client_listens():
                await exchange.write(error_event(error) + DONE, is_last=True)


class EventWriter:
    """Writes the chunks of all choices as events; the first chunk opens the answer, the last one ends it."""

    __slots__ = ("_coalescers", "_encoder", "_exchange", "_num_open", "_options", "_tally")

    def __init__(
        self, exchange: Exchange, encoder: ResponseEncoder, options: ResponseOptions, *, stream_interval: int
    ) -> None:
        self._exchange, self._encoder, self._options = exchange, encoder, options
        self._tally = UsageTally(num_choices=options.num_choices, choices_per_prompt=options.choices_per_prompt)
        self._num_open = options.num_choices
        self._coalescers = [Coalescer(stream_interval) for _ in range(options.num_choices * (stream_interval > 1))]

    async def take(self, index: int, chunk: GenerationChunk) -> None:
        ready = self._coalescers[index].add(chunk) if self._coalescers else chunk
        if ready is None or not has_content(ready):
            return
        self._tally.add(index, ready)
        usage = self._tally.of_choice(index) if self._options.continuous_usage else None
        data = b"" if self._exchange.has_begun else self._encoder.opening()
        data += self._encoder.piece(index, ready, usage)
        if ready.finish_reason is not None:
            self._num_open -= 1
            if not self._num_open:
                data += self._ending()
        if not self._exchange.has_begun:
            await self._exchange.begin(200, EVENT_STREAM_HEADERS)
        await self._exchange.write(data, is_last=not self._num_open)

    def _ending(self) -> bytes:
        return self._encoder.usage_piece(self._tally.total()) + DONE if self._options.include_usage else DONE
