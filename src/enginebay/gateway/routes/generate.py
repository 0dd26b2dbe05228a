"""POST or GET /generate: the lesson's endpoint. A prompt in, `{"text": ...}` out."""

from __future__ import annotations

from urllib.parse import parse_qsl

import msgspec

from enginebay.errors import InvalidRequest
from enginebay.gateway.answers import generate_whole
from enginebay.gateway.body import demand_json
from enginebay.gateway.deadlines import with_deadline
from enginebay.gateway.exchange import JSON_HEADERS, Exchange
from enginebay.gateway.request_ids import response_id
from enginebay.gateway.served import Served
from enginebay.wire.openai_requests import GenerateBody, parse, parse_query
from enginebay.wire.openai_responses import encode
from enginebay.wire.openai_to_request import generate_request

MAX_PARAMETERS = 64
_decoder = msgspec.json.Decoder(GenerateBody)


async def generate(served: Served, exchange: Exchange) -> None:
    body = await _read(exchange)
    model = served.model(body.model, exchange.client)
    model.demand_ready()
    request_id = served.engine_request_id(response_id("gen", exchange, None))
    requests = with_deadline([generate_request(body, request_id=request_id)], exchange, model.info)
    with served.passage(exchange, model, requests) as passage:
        [answer] = await generate_whole(exchange, passage)
        await exchange.respond(200, encode({"text": answer.text}), JSON_HEADERS)


async def _read(exchange: Exchange) -> GenerateBody:
    """A JSON body, or without one the query parameters."""
    data = await exchange.body()
    query: bytes = exchange.scope.get("query_string", b"")
    if not data:
        exchange.num_body_bytes = len(query)  # no token of the prompt is shorter than a byte of this
        return parse_query(_parameters(query), GenerateBody)
    if query:
        raise InvalidRequest("both a body and query parameters were given: give one of them")
    demand_json(exchange.header(b"content-type"))
    return parse(data, _decoder)


def _parameters(query: bytes) -> dict[str, str]:
    """Raises InvalidRequest where a name stands twice, or a text is not UTF-8."""
    try:
        pairs = parse_qsl(query.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except UnicodeDecodeError as error:
        raise InvalidRequest("the query parameters are not UTF-8") from error
    except ValueError as error:
        raise InvalidRequest(f"there are more than {MAX_PARAMETERS} query parameters") from error
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name in parameters:
            raise InvalidRequest(f"the query parameter {name!r} was given twice", field=name)
        parameters[name] = value
    return parameters
