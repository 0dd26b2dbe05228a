"""The bytes of the oracle's answers: the OpenAI API, streamed, one chunk of HTTP's chunked encoding for each event."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import msgspec

from enginebay.loadtest.self_check.script import OracleScript
from enginebay.quantities import SIMULATED_HEADER

WORD = " word"
"""The text of every token."""
END = b"0\r\n\r\n"
_SIMULATED = f"{SIMULATED_HEADER}: 1\r\n".encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n" + _SIMULATED + b"\r\n"
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request shapes its answer."""

    is_chat: bool
    max_tokens: int
    num_prompt_tokens: int
    is_streamed: bool
    with_usage: bool
    with_token_ids: bool


@dataclass(frozen=True, slots=True)
class Answer:
    opening: bytes
    """The head, and the chunk with the role if the script or the form has one."""
    chunks: tuple[bytes, ...]
    """Each carries `tokens_per_chunk` tokens, the last one the rest; empty for an answer without a token."""
    closing: bytes
    whole: bytes
    """All of it at once."""
    num_tokens: int


@lru_cache(maxsize=8192)
def render(script: OracleScript, asked: Asked) -> Answer:
    """Cached: an instant oracle costs little more than its sockets."""
    num_tokens = asked.max_tokens if script.num_tokens is None else min(script.num_tokens, asked.max_tokens)
    reason = "length" if num_tokens == asked.max_tokens else "stop"
    if not asked.is_streamed:
        return _unstreamed(script, asked, num_tokens, reason=reason)
    firsts = range(0, num_tokens, script.tokens_per_chunk)
    ends = [min(first + script.tokens_per_chunk, num_tokens) for first in firsts]
    chunks = tuple(
        _event(asked, first, end, reason=reason if end == num_tokens else None)
        for first, end in zip(firsts, ends, strict=True)
    )
    if chunks and script.num_echoed_prompt_tokens and not asked.is_chat:
        first = _choice(asked, 0, ends[0], reason=reason if len(ends) == 1 else None, key="delta")
        echo = {"prompt_token_ids": list(range(script.num_echoed_prompt_tokens))}
        chunks = (_framed({"choices": [first | echo]}), *chunks[1:])
    opening = HEAD + (_role(asked) if script.role_only_chunk or asked.is_chat else b"")
    closing = b"" if num_tokens else _event(asked, 0, 0, reason=reason)
    if script.with_usage and asked.with_usage:
        closing += _framed({"choices": [], "usage": _usage(asked, num_tokens)})
    closing += _chunked(b"data: [DONE]\n\n") + END
    return Answer(opening, chunks, closing, opening + b"".join(chunks) + closing, num_tokens)


def json_response(body: object, *, status: bytes = b"200 OK") -> bytes:
    return response(_encode(body), content_type=b"application/json", status=status)


def response(body: bytes, *, content_type: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n" % (status, content_type, len(body))
    return head + _SIMULATED + b"\r\n" + body


def _unstreamed(script: OracleScript, asked: Asked, num_tokens: int, *, reason: str) -> Answer:
    choice = _choice(asked, 0, num_tokens, reason=reason, key="message")
    body: dict[str, object] = {"id": "oracle", "choices": [choice]}
    if script.with_usage:
        body["usage"] = _usage(asked, num_tokens)
    whole = json_response(body)
    return Answer(b"", (whole,), b"", whole, num_tokens)


def _role(asked: Asked) -> bytes:
    if not asked.is_chat:
        return _framed({"choices": [{"index": 0, "text": "", "finish_reason": None}]})
    delta = {"role": "assistant", "content": ""}
    return _framed({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


def _event(asked: Asked, first: int, end: int, *, reason: str | None) -> bytes:
    return _framed({"choices": [_choice(asked, first, end, reason=reason, key="delta")]})


def _choice(asked: Asked, first: int, end: int, *, reason: str | None, key: str) -> dict[str, object]:
    text = WORD * (end - first)
    choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": reason}
    choice |= {key: {"content": text}} if asked.is_chat else {"text": text}
    if asked.with_token_ids:
        choice["token_ids"] = list(range(first, end))
    return choice


def _usage(asked: Asked, num_tokens: int) -> dict[str, int]:
    num_prompt_tokens = asked.num_prompt_tokens
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": num_prompt_tokens + num_tokens,
    }


def _framed(event: dict[str, object]) -> bytes:
    return _chunked(b"data: " + _encode({"id": "oracle", "model": "oracle", **event}) + b"\n\n")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
