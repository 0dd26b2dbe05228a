"""A server that gives every open stream its next token in one tick, as engines with continuous batching do. Simulated.

    python benchmarks/ticking_server.py FD [--tokens-per-s 20]    # serves on this inherited listening socket

Answers are streamed completions in vLLM's form. A request gets its head at once and `max_tokens` in all. Its first
token comes with the next tick, as the last of it: so it is where prompts are computed in one step with the tokens of
others. Where its prompt begins with `own step`, it comes at once: so it is where a prompt is computed by itself.

The text of a token is ` INDEX:STEP`, that of the first one ` 0:STEP:RECEIVED`: the number of the token in its stream,
and the instants at which its step ended and the request arrived, in nanoseconds of CLOCK_MONOTONIC, so that a client
on this machine can tell how late each token is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time

import uvloop
from instant_server import InstantConnection, answer_to

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-enginebay-simulated: 1\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
TOKEN = (
    b'data: {"id":"cmpl-0","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"%b",'
    b'"logprobs":null,"finish_reason":%b,"stop_reason":null,"token_ids":null,"prompt_logprobs":null,'
    b'"prompt_token_ids":null}],"usage":null}\n\n'
)
USAGE = (
    b'data: {"id":"cmpl-0","object":"text_completion","created":1,"model":"m","choices":[],"usage":'
    b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":null}}\n\n'
)
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
NUM_PROMPT_TOKENS = 8
START_S = 0.05
OWN_STEP = "own step"


class Stream:
    """One answer under way."""

    __slots__ = ("_num_sent", "_num_tokens", "_received_ns", "_transport")

    def __init__(self, transport: asyncio.Transport, num_tokens: int, received_ns: int) -> None:
        self._transport, self._num_tokens, self._received_ns = transport, num_tokens, received_ns
        self._num_sent = 0

    def send(self, now_ns: int) -> bool:
        """The next token, of a step that ended now; False when it was the last one, or nobody reads any more."""
        if self._transport.is_closing():
            return False
        index = self._num_sent
        self._num_sent += 1
        text = b" %d:%d" % (index, now_ns) if index else b" 0:%d:%d" % (now_ns, self._received_ns)
        if self._num_sent < self._num_tokens:
            self._transport.write(chunk(TOKEN % (text, b"null")))
            return True
        usage = USAGE % (NUM_PROMPT_TOKENS, NUM_PROMPT_TOKENS + self._num_sent, self._num_sent)
        self._transport.write(chunk(TOKEN % (text, b'"length"')) + chunk(usage) + chunk(DONE) + END)
        return False


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Ticker:
    """All streams, and the clock that drives them: absolute instants, so that a late tick delays none behind it."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._streams: list[Stream] = []
        self._next: asyncio.TimerHandle | None = None

    def add(self, stream: Stream) -> None:
        self._streams.append(stream)

    def begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_at = loop.time() + START_S
        self._next = loop.call_at(self._next_at, self._due)

    def end(self) -> None:
        if self._next is not None:
            self._next.cancel()

    def _due(self) -> None:
        self.tick(time.monotonic_ns())
        loop = asyncio.get_running_loop()
        self._next_at = max(self._next_at + self._interval_s, loop.time())
        self._next = loop.call_at(self._next_at, self._due)

    def tick(self, now_ns: int) -> None:
        self._streams = [stream for stream in self._streams if stream.send(now_ns)]


class TickingConnection(InstantConnection):
    """Requests one after another; streamed completions get their tokens from the ticker."""

    def __init__(self, ticker: Ticker) -> None:
        super().__init__()
        self._ticker = ticker

    def answer(self, request: bytes) -> None:
        received_ns = time.monotonic_ns()
        if not request.startswith(b"POST /v1/completions"):
            self.transport.write(answer_to(request))
            return
        fields = json.loads(request.partition(b"\r\n\r\n")[2])
        if not fields.get("stream"):
            self.transport.write(answer_to(request))  # a probe of health: one answer at once
            return
        self.transport.write(HEAD)
        stream = Stream(self.transport, int(fields["max_tokens"]), received_ns)
        if not fields["prompt"].startswith(OWN_STEP) or stream.send(time.monotonic_ns()):
            self._ticker.add(stream)


async def serve(fd: int, tokens_per_s: float) -> None:
    ticker = Ticker(1 / tokens_per_s)
    ticker.begin()
    listener = socket.socket(fileno=fd)
    server = await asyncio.get_running_loop().create_server(lambda: TickingConnection(ticker), sock=listener)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fd", type=int)
    parser.add_argument("--tokens-per-s", type=float, default=20.0)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.fd, arguments.tokens_per_s))


if __name__ == "__main__":
    main()
