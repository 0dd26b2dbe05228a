"""The bytes of a `ScriptedServer`: OpenAI completions and chats, streamed or whole, with the faults of the script."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import msgspec

from enginebay.quantities import SIMULATED_HEADER
from enginebay.testing.server_script import Fault, Script

encode = msgspec.json.Encoder().encode
Ending = Literal["keep_alive", "close", "stall"]
_CREATED = 1_750_000_000
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What of a request shapes the answer."""

    form: Literal["completions", "chat"]
    model: str
    max_tokens: int
    num_prompt_tokens: int
    is_streamed: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    wants_token_ids: bool = False
    num_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    pieces: tuple[tuple[float, bytes], ...]
    """(seconds to wait before it, bytes)"""
    ending: Ending = "keep_alive"
    num_tokens: int = 0

    @property
    def all_bytes(self) -> bytes:
        return b"".join(data for _, data in self.pieces)


@lru_cache(maxsize=4096)
def render(script: Script, asked: Asked) -> Answer:
    """Cached: an instant server costs little more than its sockets."""
    if script.fault is Fault.REFUSE:
        return Answer((), "close")
    refused = _REFUSALS.get(script.fault) if script.fault is not None else None
    if refused is not None:
        return Answer(((script.head_after_s, refused),))
    num_tokens = asked.max_tokens if script.num_tokens is None else min(script.num_tokens, asked.max_tokens)
    answer = _Stream(script, asked, num_tokens).render() if asked.is_streamed else _whole(script, asked, num_tokens)
    if script.fault in (Fault.CLOSE, Fault.CLOSE_SILENTLY) and answer.ending == "keep_alive":
        return Answer(answer.pieces, "close", num_tokens)
    return answer


def response(
    status: int, body: bytes, *, content_type: str = "application/json", headers: bytes = b"", close: bool = False
) -> bytes:
    length = b"content-length: %d\r\n" % len(body)
    return head(status, content_type=content_type, headers=headers + length, close=close) + body


def head(status: int, *, content_type: str, headers: bytes, close: bool = False) -> bytes:
    connection = b"connection: close\r\n" if close else b""
    start = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {content_type}\r\n{SIMULATED_HEADER}: 1\r\n"
    return start.encode() + headers + connection + b"\r\n"


def error_response(status: int, message: str, *, code: str, param: str | None = None, headers: bytes = b"") -> bytes:
    return response(status, encode(_error(message, code, param)), headers=headers)


def _error(message: str, code: str, param: str | None = None) -> object:
    return {"error": {"message": message, "type": "scripted_error", "param": param, "code": code}}


_REFUSALS = {
    Fault.LOADING: error_response(503, "the model is loading", code="not_ready"),
    Fault.OVERLOADED: error_response(503, "too many requests", code="overloaded", headers=b"retry-after: 2\r\n"),
    Fault.INTERNAL_ERROR: error_response(500, "the engine failed", code="engine_step_failed"),
}


class _Stream:
    def __init__(self, script: Script, asked: Asked, num_tokens: int) -> None:
        self._script, self._asked, self._num_tokens = script, asked, num_tokens

    def render(self) -> Answer:
        script = self._script
        close = script.fault is Fault.CLOSE
        start = head(200, content_type="text/event-stream", headers=b"transfer-encoding: chunked\r\n", close=close)
        pieces = [(script.head_after_s, start), (0.0, self._opening())]
        wait_s = script.first_token_after_s
        for first in range(0, self._num_tokens, script.tokens_per_event):
            if script.fault in _FAULTS_INSIDE and first >= script.fault_after_tokens:
                return self._broken(pieces)
            until = min(first + script.tokens_per_event, self._num_tokens)
            pieces.append((wait_s, self._tokens(first, until)))
            wait_s = script.token_gap_s
        if script.fault in _FAULTS_INSIDE:
            return self._broken(pieces)
        pieces.append((0.0, self._closing()))
        return Answer(tuple(pieces), "keep_alive", self._num_tokens)

    def _broken(self, pieces: list[tuple[float, bytes]]) -> Answer:
        fault = self._script.fault
        if fault is Fault.MALFORMED:
            pieces.append((0.0, _chunked(b'data: {"choices": [{"ind\n\n')))
        elif fault is Fault.ERROR_EVENT:
            data = encode(_error("the engine died", "engine_died"))
            pieces.append((0.0, _chunked(b"data: " + data + b"\n\n") + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"))
            return Answer(tuple(pieces))
        elif fault is Fault.CUT:
            return Answer(tuple(pieces), "close")
        return Answer(tuple(pieces), "stall")

    def _opening(self) -> bytes:
        if self._asked.form == "completions":
            return b""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return self._event([choice])

    def _tokens(self, first: int, until: int) -> bytes:
        choice = _choice(self._script, self._asked, first, until, key="delta")
        is_last = until == self._num_tokens
        choice["finish_reason"] = _finish_reason(self._script, self._asked, self._num_tokens) if is_last else None
        if self._script.fault is Fault.NO_FINISH:
            choice["finish_reason"] = None
        usage = self._usage(until) if self._asked.continuous_usage else None
        return self._event([choice], usage)

    def _closing(self) -> bytes:
        parts: list[bytes] = []
        if self._asked.include_usage and self._script.fault is not Fault.NO_USAGE:
            parts.append(self._event([], self._usage(self._num_tokens)))
        if self._script.fault is not Fault.NO_DONE:
            parts.append(_chunked(b"data: [DONE]\n\n"))
        return b"".join(parts) + b"0\r\n\r\n"

    def _usage(self, num_tokens: int) -> object:
        return _usage(self._script, self._asked, num_tokens)

    def _event(self, choices: list[object], usage: object = None) -> bytes:
        kind = "chat.completion.chunk" if self._asked.form == "chat" else "text_completion"
        event: dict[str, object] = _envelope(self._asked, kind, choices)
        if usage is not None:
            event["usage"] = usage
        return _chunked(b"data: " + encode(event) + b"\n\n")


_FAULTS_INSIDE = (Fault.STALL, Fault.CUT, Fault.MALFORMED, Fault.ERROR_EVENT)


def _whole(script: Script, asked: Asked, num_tokens: int) -> Answer:
    if script.fault is Fault.STALL:
        return Answer((), "stall")
    if script.fault is Fault.ERROR_EVENT:
        return Answer(((script.head_after_s, _REFUSALS[Fault.INTERNAL_ERROR]),))
    choice = _choice(script, asked, 0, num_tokens, key="message")
    choice["finish_reason"] = _finish_reason(script, asked, num_tokens)
    body = _envelope(asked, "chat.completion" if asked.form == "chat" else "text_completion", [choice])
    if script.fault is not Fault.NO_USAGE:
        body["usage"] = _usage(script, asked, num_tokens)
    data = encode(body)[:-20] if script.fault is Fault.MALFORMED else encode(body)
    answer = response(200, data, close=script.fault is Fault.CLOSE)
    wait_s = script.head_after_s + script.first_token_after_s + script.token_gap_s * max(0, num_tokens - 1)
    if script.fault is Fault.CUT:
        return Answer(((wait_s, answer[: len(answer) - len(data) // 2]),), "close")
    return Answer(((wait_s, answer),), "keep_alive", num_tokens)


def _choice(script: Script, asked: Asked, first: int, until: int, *, key: str) -> dict[str, object]:
    texts = [script.texts[index % len(script.texts)] for index in range(first, until)]
    choice: dict[str, object] = {"index": 0, "logprobs": None, "stop_reason": None}
    if asked.form == "chat":
        choice[key] = (
            {"role": "assistant", "content": "".join(texts)} if key == "message" else {"content": "".join(texts)}
        )
    else:
        choice["text"] = "".join(texts)
    if asked.wants_token_ids:
        choice["token_ids"] = list(range(first, until))
    if asked.num_logprobs is not None:
        choice["logprobs"] = _logprobs(asked, texts)
    return choice


def _logprobs(asked: Asked, texts: list[str]) -> object:
    """Every token has the log-probability -0.5; alternative i has -0.5 - i."""
    num_logprobs = asked.num_logprobs or 0
    if asked.form == "chat":
        tops = [{"token": f"alt{rank}", "logprob": -0.5 - rank, "bytes": None} for rank in range(1, num_logprobs)]
        return {"content": [_chat_logprob(text, tops if num_logprobs else None) for text in texts]}
    return {
        "tokens": texts,
        "token_logprobs": [-0.5] * len(texts),
        "top_logprobs": [_completion_tops(text, num_logprobs) for text in texts],
        "text_offset": [0] * len(texts),
    }


def _chat_logprob(text: str, tops: list[dict[str, object]] | None) -> object:
    own: dict[str, object] = {"token": text, "logprob": -0.5, "bytes": None}
    return {**own, "top_logprobs": [] if tops is None else [own, *tops]}


def _completion_tops(text: str, num_logprobs: int) -> object:
    return {text: -0.5, **{f"alt{rank}": -0.5 - rank for rank in range(1, num_logprobs)}}


def _usage(script: Script, asked: Asked, num_tokens: int) -> object:
    num_output_tokens = num_tokens + (script.fault is Fault.WRONG_USAGE)
    return {
        "prompt_tokens": asked.num_prompt_tokens,
        "completion_tokens": num_output_tokens,
        "total_tokens": asked.num_prompt_tokens + num_output_tokens,
    }


def _envelope(asked: Asked, kind: str, choices: list[object]) -> dict[str, object]:
    return {"id": "scripted-0", "object": kind, "created": _CREATED, "model": asked.model, "choices": choices}


def _finish_reason(script: Script, asked: Asked, num_tokens: int) -> str:
    if script.fault is Fault.UNKNOWN_FINISH:
        return "boredom"
    return "length" if num_tokens == asked.max_tokens else "stop"


def _chunked(data: bytes) -> bytes:
    """One chunk of HTTP's chunked encoding for each event, as uvicorn sends them."""
    return b"%x\r\n%b\r\n" % (len(data), data)
