"""POST /tokenize: the token ids that the engine would see."""

from __future__ import annotations

import msgspec

from enginebay.errors import InvalidRequest, UnsupportedFeature
from enginebay.gateway.body import demand_json
from enginebay.gateway.exchange import JSON_HEADERS, Exchange
from enginebay.gateway.models.served_model import can_count_tokens
from enginebay.gateway.served import Served
from enginebay.types import Prompt, Text
from enginebay.wire.openai_messages import tokenize_chat
from enginebay.wire.openai_requests import TokenizeBody, parse
from enginebay.wire.openai_responses import encode

_decoder = msgspec.json.Decoder(TokenizeBody)


async def tokenize(served: Served, exchange: Exchange) -> None:
    demand_json(exchange.header(b"content-type"))
    body = parse(await exchange.body(), _decoder)
    model = served.model(body.model, exchange.client)
    model.demand_ready()
    info = model.info
    if not can_count_tokens(info):
        raise UnsupportedFeature(field="tokenize", backend=info.name, detail="it does not tell tokens")
    if body.return_token_strs:
        raise UnsupportedFeature(field="return_token_strs", backend=info.name)
    async with exchange.while_client_listens():
        token_ids = await model.count_tokens(_prompt(body, info.name))
    answer = {
        "count": len(token_ids),
        "max_model_len": info.max_model_len,
        "tokens": token_ids,
        "token_strs": None,
    }
    await exchange.respond(200, encode(answer), JSON_HEADERS)


def _prompt(body: TokenizeBody, backend: str) -> Prompt:
    if body.prompt is not None and body.messages is None:
        return Text(body.prompt, body.add_special_tokens is not False)
    if body.messages is not None and body.prompt is None:
        return tokenize_chat(body, body.messages, backend=backend)
    raise InvalidRequest("give either prompt or messages", field="prompt")
