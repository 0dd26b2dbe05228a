"""A server on loopback that knows what it sent and when: the client's figures are held against what it tells.

It speaks as much of the OpenAI API as our client asks of a server, computes nothing, and runs in a process of its own
(`oracle_process`). Every answer says that it is simulated.

    POST /oracle/script       an `OracleScript` for the requests from now on; forgets the exchanges so far
    GET  /oracle/exchanges    what was received and sent since then (MessagePack, a list of `Exchange`)
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

import httptools
import msgspec

from enginebay.loadtest.self_check.answers import Answer, Asked, json_response, render, response
from enginebay.loadtest.self_check.script import Exchange, OracleScript
from enginebay.quantities import SIMULATED_METRIC
from enginebay.types import Feature

MODEL = "oracle"
SCRIPT_PATH = "/oracle/script"
EXCHANGES_PATH = "/oracle/exchanges"
_GENERATIONS = {b"/v1/completions": False, b"/v1/chat/completions": True}
_FEATURES = (
    Feature.TEXT_PROMPT, Feature.TOKEN_PROMPT, Feature.CHAT, Feature.IGNORE_EOS, Feature.OUTPUT_TOKEN_IDS, Feature.SEED,
    Feature.TOP_K, Feature.MIN_P, Feature.REPETITION_PENALTY,
)  # fmt: skip


class _StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


class _Body(msgspec.Struct, gc=False):
    prompt: str | list[int] = ""
    max_tokens: int = 16
    max_completion_tokens: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    return_token_ids: bool | None = None


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_script = msgspec.json.Decoder(OracleScript).decode


class Oracle:
    def __init__(self, *, num_prompt_tokens: int | None = None) -> None:
        """num_prompt_tokens: told for every prompt; else ids are counted, and in a text its words."""
        self.script = OracleScript()
        self.exchanges: list[Exchange] = []
        self.num_prompt_tokens = num_prompt_tokens

    async def listen(self) -> str:
        """Return the address. The server lives as long as its event loop."""
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=4096)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def control(self, path: bytes, body: bytes) -> bytes:
        """The answer to anything that is no generation."""
        match path.decode("latin-1"):
            case "/health" | "/version":
                return json_response({"status": "ok", "version": "1"})
            case "/v1/models":
                card = {"id": MODEL, "object": "model", "owned_by": "enginebay", "kind": MODEL, "max_model_len": 2**20}
                return json_response({"data": [{**card, "features": [feature.value for feature in _FEATURES]}]})
            case "/metrics":
                return response(f"{SIMULATED_METRIC} 1\n".encode(), content_type=b"text/plain")
            case "/oracle/script":
                self.script, self.exchanges = _decode_script(body), []
                return json_response({})
            case "/oracle/exchanges":
                content = msgspec.msgpack.encode(self.exchanges)
                return response(content, content_type=b"application/msgpack")
            case _:
                return json_response({"error": {"message": "not found", "code": 404}}, status=b"404 Not Found")

    def asked(self, is_chat: bool, body: bytes) -> Asked:
        asked = _decode_body(body)
        prompt = asked.prompt
        counted = len(prompt) if isinstance(prompt, list) else prompt.count(" ") + 1
        return Asked(
            is_chat,
            asked.max_completion_tokens or asked.max_tokens,
            counted if self.num_prompt_tokens is None else self.num_prompt_tokens,
            bool(asked.stream),
            bool(asked.stream_options and asked.stream_options.include_usage),
            bool(asked.return_token_ids),
        )


class _Connection(asyncio.Protocol):
    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._play: _Play | None = None
        self._begin_request()

    def _begin_request(self) -> None:
        self._path = b""
        self._request_id = ""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, msgspec.DecodeError):
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._play is not None:
            self._play.cut()

    # ---------------------------------------------------------------- called by the parser

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-request-id":
            self._request_id = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        received_at = time.monotonic()
        assert self._transport is not None
        oracle, body = self._oracle, b"".join(self._body)
        is_chat = _GENERATIONS.get(self._path)
        if is_chat is None:
            self._transport.write(oracle.control(self._path, body))
        else:
            exchange = Exchange(self._request_id, received_at)
            oracle.exchanges.append(exchange)
            answer = render(oracle.script, oracle.asked(is_chat, body))
            if oracle.script.is_instant and not oracle.script.separate_writes:
                exchange.sent_at.append(time.monotonic())
                exchange.num_tokens = answer.num_tokens
                self._transport.write(answer.whole)
            else:
                self._play = _Play(answer, exchange, script=oracle.script, transport=self._transport)
                self._play.begin()
        self._begin_request()


class _Play:
    """One answer over time. Instants are absolute: a late chunk delays none behind it."""

    def __init__(
        self, answer: Answer, exchange: Exchange, *, script: OracleScript, transport: asyncio.Transport
    ) -> None:
        self._answer, self._exchange, self._script, self._transport = answer, exchange, script, transport
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        if self._answer.opening:
            self._transport.write(self._answer.opening)
        self._go_on()

    def cut(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._exchange.is_cut = self._next <= len(self._answer.chunks)

    def _go_on(self) -> None:
        """Send what is due, then wait for the next instant."""
        self._timer = None
        chunks = self._answer.chunks
        while self._next < len(chunks):
            remaining_s = self._due_at(self._next) - time.monotonic()
            if remaining_s > 0:
                # At least a tick of the loop's timers, which count milliseconds: less would spin.
                self._timer = asyncio.get_running_loop().call_later(max(remaining_s, 0.001), self._go_on)
                return
            self._exchange.sent_at.append(time.monotonic())
            self._transport.write(chunks[self._next])
            self._next += 1
        self._exchange.num_tokens = self._answer.num_tokens
        self._next += 1  # past the last chunk: the answer is whole
        if self._answer.closing:
            self._transport.write(self._answer.closing)

    def _due_at(self, number: int) -> float:
        return self._exchange.received_at + self._script.first_token_after_s + number * self._script.token_gap_s
