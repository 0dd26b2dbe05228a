"""POST /v1/chat/completions."""

from __future__ import annotations

import time

import msgspec

from enginebay.errors import ContextTooLong
from enginebay.gateway.answers import answer_streaming, answer_whole
from enginebay.gateway.body import demand_json
from enginebay.gateway.deadlines import with_deadline
from enginebay.gateway.exchange import Exchange
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
    served.life.demand_ready()
    served.demand_model(body.model)
    answer_id = response_id("chatcmpl", exchange, body.request_id)
    prompt = chat_prompt(body, backend=served.backend.info.name)
    max_tokens = chat_max_tokens(body)
    if max_tokens is None:
        async with exchange.while_client_listens():
            max_tokens = await _rest_of_context(served, prompt, body.truncate_prompt_tokens)
    engine_request_id = served.engine_request_id(answer_id)
    requests = chat_requests(body, prompt, served.target, request_id=engine_request_id, max_tokens=max_tokens)
    requests = with_deadline(requests, exchange, served)
    options = _options(body, served, answer_id, num_choices=len(requests))
    encoder = ChatEncoder(options)
    if body.stream:
        interval = body.stream_interval or 1
        await answer_streaming(exchange, served, requests, encoder, options, stream_interval=interval)
    else:
        await answer_whole(exchange, served, requests, encoder, options)


async def _rest_of_context(served: Served, prompt: Chat, truncate_prompt_tokens: int | None) -> int:
    """Without a way to count the prompt's tokens the configured default stands in."""
    limit = served.backend.info.max_model_len
    if limit is None or not served.counts_tokens:
        return served.bounds.default_max_tokens
    num_tokens = len(await served.backend.count_tokens(prompt))
    if truncate_prompt_tokens is not None and truncate_prompt_tokens > 0:
        num_tokens = min(num_tokens, truncate_prompt_tokens)
    if num_tokens >= limit:
        raise ContextTooLong(num_tokens=num_tokens, limit=limit, field="messages")
    return limit - num_tokens


def _options(body: ChatBody, served: Served, answer_id: str, *, num_choices: int) -> ResponseOptions:
    stream_options = body.stream_options
    return ResponseOptions(
        response_id=answer_id,
        created=int(time.time()),
        model=served.model_name,
        num_choices=num_choices,
        choices_per_prompt=num_choices,
        include_usage=stream_options is not None and bool(stream_options.include_usage),
        continuous_usage=stream_options is not None and bool(stream_options.continuous_usage_stats),
        wants_logprobs=bool(body.logprobs),
        wants_prompt_logprobs=body.prompt_logprobs is not None,
        wants_token_ids=bool(body.return_token_ids),
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
    )
