"""POST or GET /generate: the lesson's endpoint. A prompt in, `{"text": ...}` out."""

from __future__ import annotations

from urllib.parse import parse_qsl

import msgspec

from enginebay.gateway.answers import generate_whole
from enginebay.gateway.body import demand_json
from enginebay.gateway.exchange import JSON_HEADERS, Exchange
from enginebay.gateway.request_ids import response_id
from enginebay.gateway.served import Served
from enginebay.wire.openai_requests import GenerateBody, parse, parse_query
from enginebay.wire.openai_responses import encode
from enginebay.wire.openai_to_request import generate_request

_decoder = msgspec.json.Decoder(GenerateBody)


async def generate(served: Served, exchange: Exchange) -> None:
    body = await _read(exchange)
    served.life.demand_ready()
    request_id = served.engine_request_id(response_id("gen", exchange, None))
    [answer] = await generate_whole(exchange, served, [generate_request(body, request_id=request_id)])
    await exchange.respond(200, encode({"text": answer.text}), JSON_HEADERS)


async def _read(exchange: Exchange) -> GenerateBody:
    """A JSON body, or without one the query parameters."""
    data = await exchange.body()
    if data:
        demand_json(exchange.header(b"content-type"))
        return parse(data, _decoder)
    query = exchange.scope.get("query_string", b"").decode("latin-1")
    return parse_query(dict(parse_qsl(query, keep_blank_values=True)), GenerateBody)
