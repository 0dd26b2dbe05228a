"""POST /v1/chat/completions."""

from __future__ import annotations

import time

import msgspec

from enginebay.errors import BackendError, ContextTooLong
from enginebay.gateway.answers import answer_streaming, answer_whole
from enginebay.gateway.body import demand_json
from enginebay.gateway.deadlines import with_deadline
from enginebay.gateway.exchange import Exchange
from enginebay.gateway.models.served_model import ServedModel, can_count_tokens
from enginebay.gateway.request_ids import response_id
from enginebay.gateway.served import Served
from enginebay.types import Chat
from enginebay.wire.openai_chat_response import ChatEncoder
from enginebay.wire.openai_messages import chat_prompt
from enginebay.wire.openai_requests import ChatBody, parse
from enginebay.wire.openai_responses import ResponseOptions
from enginebay.wire.openai_to_request import chat_max_tokens, chat_requests

_decoder = msgspec.json.Decoder(ChatBody)


async def create_chat_completion(served: Served, exchange: Exchange) -> None:
    demand_json(exchange.header(b"content-type"))
    body = parse(await exchange.body(), _decoder)
    model = served.model(body.model, exchange.client)
    model.demand_ready()
    info = model.info
    answer_id = response_id("chatcmpl", exchange, body.request_id)
    prompt = chat_prompt(body, backend=info.name)
    max_tokens, num_prompt_tokens = chat_max_tokens(body), None
    if max_tokens is None:
        async with exchange.while_client_listens():
            max_tokens, num_prompt_tokens = await _max_tokens(served, model, prompt, body.truncate_prompt_tokens)
    engine_request_id = served.engine_request_id(answer_id)
    requests = chat_requests(body, prompt, served.target(info), request_id=engine_request_id, max_tokens=max_tokens)
    requests = with_deadline(requests, exchange, info)
    options = _options(body, model.name, answer_id, num_choices=len(requests))
    encoder = ChatEncoder(options)
    with served.passage(
        exchange, model, requests, choices_per_prompt=len(requests), num_prompt_tokens=num_prompt_tokens
    ) as passage:
        if body.stream:
            interval = body.stream_interval or 1
            await answer_streaming(exchange, passage, encoder, options, stream_interval=interval, log=served.log)
        else:
            await answer_whole(exchange, passage, encoder)


async def _max_tokens(
    served: Served, model: ServedModel, prompt: Chat, truncate_prompt_tokens: int | None
) -> tuple[int, int | None]:
    """The model's default, at most the rest of the context, and the prompt's tokens where they could be counted."""
    default, limit = model.default_max_tokens, model.info.max_model_len
    uncounted = served.bounds.default_max_tokens if default is None else default, None
    if limit is None or not can_count_tokens(model.info):
        return uncounted
    try:
        num_tokens = len(await model.count_tokens(prompt))
    except BackendError:
        return uncounted  # whether anybody can answer is known when they are asked
    if truncate_prompt_tokens is not None and truncate_prompt_tokens > 0:
        num_tokens = min(num_tokens, truncate_prompt_tokens)
    if num_tokens >= limit:
        raise ContextTooLong(num_tokens=num_tokens, limit=limit, field="messages")
    rest = limit - num_tokens
    return rest if default is None else min(default, rest), num_tokens


def _options(body: ChatBody, model_name: str, answer_id: str, *, num_choices: int) -> ResponseOptions:
    stream_options = body.stream_options
    return ResponseOptions(
        response_id=answer_id,
        created=int(time.time()),
        model=model_name,
        num_choices=num_choices,
        choices_per_prompt=num_choices,
        include_usage=stream_options is not None and bool(stream_options.include_usage),
        continuous_usage=stream_options is not None and bool(stream_options.continuous_usage_stats),
        wants_logprobs=bool(body.logprobs),
        wants_prompt_logprobs=body.prompt_logprobs is not None,
        wants_token_ids=bool(body.return_token_ids),
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
    )
