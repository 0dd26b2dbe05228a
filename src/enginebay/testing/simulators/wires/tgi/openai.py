"""Answers of /v1/completions and /v1/chat/completions, with TGI's habits: empty ids, and names of its own."""

from __future__ import annotations

from enginebay.testing.simulators.exchange import Exchange
from enginebay.testing.simulators.wires.tgi.errors import Refusal, event
from enginebay.testing.simulators.wires.tgi.generation import Generation, JsonFields
from enginebay.testing.simulators.wires.tgi.headers import encode, stream_headers, whole_headers

FINGERPRINT = "3.3.6-dev0-native"
CREATED_AT = 0
_DONE = b"data: [DONE]\n\n"


class CompletionAnswer:
    """All prompts of one request: `part(index)` is the listener's end for one of them."""

    def __init__(self, exchange: Exchange, *, model: str, num_prompts: int, is_streamed: bool) -> None:
        self._exchange, self._model, self._is_streamed = exchange, model, is_streamed
        self._ended: dict[int, Generation] = {}
        self._num_prompts = num_prompts

    def begin(self, num_characters: int) -> None:
        if self._is_streamed:
            self._exchange.begin_stream(headers=stream_headers(num_characters))

    def refuse(self, refusal: Refusal) -> None:
        _refuse(self._exchange, refusal, is_streamed=self._is_streamed)

    def on_token(self, index: int, generation: Generation) -> None:
        if generation.gathered.finish is not None:
            self._ended[index] = generation
        if self._is_streamed:
            self._send(index, generation)
        elif len(self._ended) == self._num_prompts:
            self._reply()

    def _send(self, index: int, generation: Generation) -> None:
        """The end of sequence goes out with its text, and under TGI's own name."""
        gathered = generation.gathered
        choice = _completion_choice(index, str(gathered.tokens[-1]["text"]), gathered.finish or "")
        fields = self._head([choice])
        if gathered.finish is not None:
            fields["usage"] = _usage([generation], self._exchange)
        self._exchange.send(event(encode(fields)))
        if len(self._ended) == self._num_prompts:
            self._exchange.send(_DONE)
            self._exchange.finish()

    def _reply(self) -> None:
        generations = [self._ended[index] for index in range(self._num_prompts)]
        choices = [
            _completion_choice(index, generation.gathered.text(generation.valid), _openai_finish(generation))
            for index, generation in enumerate(generations)
        ]
        body = self._head(choices) | {"usage": _usage(generations, self._exchange)}
        self._exchange.reply(200, encode(body), headers=_headers(generations))

    def _head(self, choices: list[JsonFields]) -> JsonFields:
        return _head("text_completion", self._model, choices)


class ChatAnswer:
    def __init__(
        self, exchange: Exchange, *, model: str, is_streamed: bool, has_usage: bool, has_logprobs: bool
    ) -> None:  # fmt: skip
        self._exchange, self._model, self._is_streamed = exchange, model, is_streamed
        self._has_usage, self._has_logprobs = has_usage, has_logprobs

    def begin(self, num_characters: int) -> None:
        if self._is_streamed:
            self._exchange.begin_stream(headers=stream_headers(num_characters))

    def refuse(self, refusal: Refusal) -> None:
        _refuse(self._exchange, refusal, is_streamed=self._is_streamed)

    def on_token(self, generation: Generation) -> None:
        if self._is_streamed:
            self._send(generation)
        elif generation.gathered.finish is not None:
            self._reply(generation)

    def _send(self, generation: Generation) -> None:
        gathered = generation.gathered
        token = gathered.tokens[-1]
        choice: JsonFields = {
            "index": 0,
            "delta": {"role": "assistant", "content": "" if token["special"] else token["text"]},
            "logprobs": {"content": [_logprob(generation, -1)]} if self._has_logprobs else None,
            "finish_reason": None if gathered.finish is None else _openai_finish(generation),
        }
        self._exchange.send(event(encode(self._head([choice]) | {"usage": None})))
        if gathered.finish is None:
            return
        if self._has_usage:
            usage = self._head([]) | {"usage": _usage([generation], self._exchange)}
            self._exchange.send(event(encode(usage)))
        self._exchange.send(_DONE)
        self._exchange.finish()

    def _reply(self, generation: Generation) -> None:
        logprobs = [_logprob(generation, index) for index in range(generation.num_generated_tokens)]
        choice: JsonFields = {
            "index": 0,
            "message": {"role": "assistant", "content": generation.gathered.text(generation.valid)},
            "logprobs": {"content": logprobs} if self._has_logprobs else None,
            "finish_reason": _openai_finish(generation),
        }
        body = _head("chat.completion", self._model, [choice]) | {"usage": _usage([generation], self._exchange)}
        self._exchange.reply(200, encode(body), headers=_headers([generation]))

    def _head(self, choices: list[JsonFields]) -> JsonFields:
        return _head("chat.completion.chunk", self._model, choices)


def _head(kind: str, model: str, choices: list[JsonFields]) -> JsonFields:
    return {
        "object": kind,
        "id": "",
        "created": CREATED_AT,
        "model": model,
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
    }


def _completion_choice(index: int, text: str, finish: str) -> JsonFields:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def _openai_finish(generation: Generation) -> str:
    finish = generation.gathered.finish or ""
    return "stop" if finish == "eos_token" else finish


def _usage(generations: list[Generation], exchange: Exchange) -> JsonFields:
    num_prompt = sum(len(generation.valid.prompt_token_ids) for generation in generations)
    num_output = sum(generation.num_generated_tokens for generation in generations) + exchange.num_wrong_usage
    return {"prompt_tokens": num_prompt, "completion_tokens": num_output, "total_tokens": num_prompt + num_output}


def _logprob(generation: Generation, index: int) -> JsonFields:
    gathered = generation.gathered
    token = gathered.tokens[index]
    top = gathered.top_tokens[index] if gathered.top_tokens else []
    return {
        "token": token["text"],
        "logprob": token["logprob"],
        "top_logprobs": [{"token": other["text"], "logprob": other["logprob"]} for other in top],
    }


def _headers(generations: list[Generation]) -> dict[str, str]:
    return whole_headers(
        sum(len(generation.valid.inputs) for generation in generations),
        sum(len(generation.valid.prompt_token_ids) for generation in generations),
        sum(generation.num_generated_tokens for generation in generations),
    )


def _refuse(exchange: Exchange, refusal: Refusal, *, is_streamed: bool) -> None:
    if not is_streamed:
        exchange.reply(refusal.status, refusal.body())
        return
    exchange.send(event(refusal.openai_body()))
    exchange.send(_DONE)
    exchange.finish()
