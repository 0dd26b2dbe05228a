"""POST /v1/completions."""

from __future__ import annotations

import time

import msgspec

from enginebay.gateway.answers import answer_streaming, answer_whole
from enginebay.gateway.body import demand_json
from enginebay.gateway.deadlines import with_deadline
from enginebay.gateway.exchange import Exchange
from enginebay.gateway.request_ids import response_id
from enginebay.gateway.served import Served
from enginebay.types import GenerationRequest, Text
from enginebay.wire.openai_completion_response import CompletionEncoder
from enginebay.wire.openai_requests import CompletionBody, parse
from enginebay.wire.openai_responses import ResponseOptions
from enginebay.wire.openai_to_request import completion_requests

_decoder = msgspec.json.Decoder(CompletionBody)


async def create_completion(served: Served, exchange: Exchange) -> None:
    demand_json(exchange.header(b"content-type"))
    body = parse(await exchange.body(), _decoder)
    model = served.model(body.model, exchange.client)
    model.demand_ready()
    info = model.info
    answer_id = response_id("cmpl", exchange, body.request_id)
    if body.max_tokens is None:
        body.max_tokens = model.default_max_tokens
    requests = completion_requests(body, served.target(info), request_id=served.engine_request_id(answer_id))
    requests = with_deadline(requests, exchange, info)
    options = _options(body, model.name, answer_id, num_choices=len(requests))
    echoed = [_known_text(request) for request in requests] if body.echo else ()
    encoder = CompletionEncoder(options, echoed=echoed, backend=info.name)
    with served.passage(exchange, model, requests, choices_per_prompt=options.choices_per_prompt) as passage:
        if body.stream:
            interval = body.stream_interval or 1
            await answer_streaming(exchange, passage, encoder, options, stream_interval=interval, log=served.log)
        else:
            await answer_whole(exchange, passage, encoder)


def _options(body: CompletionBody, model_name: str, answer_id: str, *, num_choices: int) -> ResponseOptions:
    stream_options = body.stream_options
    return ResponseOptions(
        response_id=answer_id,
        created=int(time.time()),
        model=model_name,
        num_choices=num_choices,
        choices_per_prompt=body.n or 1,
        include_usage=stream_options is not None and bool(stream_options.include_usage),
        continuous_usage=stream_options is not None and bool(stream_options.continuous_usage_stats),
        wants_logprobs=body.logprobs is not None,
        wants_prompt_logprobs=body.prompt_logprobs is not None,
        wants_token_ids=bool(body.return_token_ids),
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
    )


def _known_text(request: GenerationRequest) -> str | None:
    """A shortened prompt is known to the engine alone."""
    is_whole = request.truncate_prompt_tokens is None
    return request.prompt.text if isinstance(request.prompt, Text) and is_whole else None
