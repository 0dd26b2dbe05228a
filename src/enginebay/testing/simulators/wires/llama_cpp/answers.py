"""Answers of llama-server: native ones, and those of its OpenAI route."""

from __future__ import annotations

from collections.abc import Sequence

from enginebay.testing.simulators import tokens
from enginebay.testing.simulators.exchange import Exchange
from enginebay.testing.simulators.openai_answer import Asked, Json, OpenAIAnswer, encode_json
from enginebay.testing.simulators.request import SimulatedRequest, StepToken
from enginebay.testing.simulators.wires.llama_cpp.bodies import NativeBody


class NativeAnswer:
    """One event for each token that ends a character, one with `stop` true, and no [DONE].

    A token inside a character is held back: its id is never sent, the count of the next event has it.
    """

    def __init__(self, exchange: Exchange, body: NativeBody, *, model: str) -> None:
        self._exchange, self._body, self._model = exchange, body, model
        self._gathered: list[StepToken] = []
        self._has_begun = False

    def on_token(self, request: SimulatedRequest, token: StepToken) -> None:
        if not self._body.stream:
            self._gathered.append(token)
            if token.finish_reason is not None:
                self._exchange.reply(200, encode_json(self._last(request, token, self._gathered)))
            return
        if not self._has_begun:  # headers go out with the first token
            self._has_begun = True
            self._exchange.begin_stream()
        if token.text or not tokens.is_inside_character(token.token_id):
            self._send(self._partial(request, token))
        if token.finish_reason is not None:
            self._send(self._last(request, token, ()))
            self._exchange.finish()

    def on_failure(self, request: SimulatedRequest, reason: str) -> None:
        body: Json = {"error": {"code": 500, "message": reason, "type": "server_error"}}
        if self._has_begun:
            self._send(body)
            self._exchange.finish()
        else:
            self._exchange.reply(500, encode_json(body))

    def _send(self, event: Json) -> None:
        self._exchange.send(b"data: " + encode_json(event) + b"\n\n")

    def _partial(self, request: SimulatedRequest, token: StepToken) -> Json:
        event: Json = {
            "index": 0,
            "content": token.text,
            "tokens": [token.token_id],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": request.num_output_tokens,
            "tokens_evaluated": request.num_prompt_tokens,
        }
        if self._body.n_probs > 0:
            event["completion_probabilities"] = [_probability(token, self._body.n_probs)]
        return event

    def _last(self, request: SimulatedRequest, token: StepToken, gathered: Sequence[StepToken]) -> Json:
        num_output = request.num_output_tokens + self._exchange.num_wrong_usage
        stop_type = "limit" if token.finish_reason == "length" else "eos" if token.stop_reason is None else "word"
        event: Json = {
            "index": 0,
            "content": "".join(each.text for each in gathered),
            "tokens": [each.token_id for each in gathered] if self._body.return_tokens else [],
            "id_slot": 0,
            "stop": True,
            "model": self._model,
            "tokens_predicted": num_output,
            "tokens_evaluated": request.num_prompt_tokens,
            "generation_settings": {},
            "prompt": tokens.decode(request.prompt_token_ids),
            "has_new_line": False,
            "truncated": False,
            "stop_type": stop_type,
            "stopping_word": token.stop_reason or "",
            "tokens_cached": request.num_tokens,
            "timings": timings(request),
        }
        if gathered and self._body.n_probs > 0:
            event["completion_probabilities"] = [_probability(each, self._body.n_probs) for each in gathered]
        return event


def answer_nothing(exchange: Exchange, body: NativeBody, *, model: str) -> None:
    """To a prompt without tokens: no token, and no reason for the end."""
    event: Json = {
        "index": 0,
        "content": "",
        "tokens": [],
        "id_slot": 0,
        "stop": True,
        "model": model,
        "tokens_predicted": 0,
        "tokens_evaluated": 0,
        "prompt": "",
        "stop_type": "none",
        "stopping_word": "",
    }
    if not body.stream:
        exchange.reply(200, encode_json(event))
        return
    exchange.begin_stream()
    exchange.send(b"data: " + encode_json(event) + b"\n\n")
    exchange.finish()


class LlamaChatAnswer(OpenAIAnswer):
    """Finish reason in an event of its own with an empty delta, then the usage."""

    def __init__(self, exchange: Exchange, asked: Asked, *, is_timed: bool) -> None:
        super().__init__(exchange, asked)
        self._is_timed = is_timed

    def finish_reason(self, token: StepToken) -> str | None:
        return None if self.asked.is_streamed else token.finish_reason

    def on_token(self, request: SimulatedRequest, token: StepToken) -> None:
        if not self.asked.is_streamed or token.finish_reason is None:
            super().on_token(request, token)
            return
        # As the base would, but with the reason in an event of its own before the end.
        self._num_unfinished -= 1
        if not self._has_begun:
            self.begin()
        choice = self._choice(request, [token], token.text, is_first=False)
        self._send([choice], request, is_first=False, usage=None)
        self._send([{"index": 0, "delta": {}, "finish_reason": token.finish_reason}], None, is_first=False, usage=None)
        self._end()

    def more_in_event(self, request: SimulatedRequest | None, *, is_first: bool) -> Json:
        is_token = request is not None and not is_first
        return {"timings": timings(request)} if is_token and self._is_timed else {}

    def more_in_usage(self, requests: Sequence[SimulatedRequest]) -> Json:
        return {"prompt_tokens_details": {"cached_tokens": sum(request.num_cached_tokens for request in requests)}}

    def failure(self, reason: str) -> tuple[int, object]:
        return 500, {"error": {"code": 500, "message": reason, "type": "server_error"}}


def timings(request: SimulatedRequest | None) -> Json:
    if request is None:
        return {}
    num_computed = request.num_prompt_tokens - request.num_cached_tokens
    return {"cache_n": request.num_cached_tokens, "prompt_n": num_computed, "predicted_n": request.num_output_tokens}


def _probability(token: StepToken, num: int) -> Json:
    tops = [_one(token_id, value) for token_id, value in token.alternatives(num)]
    return {**_one(token.token_id, token.logprob), "top_logprobs": tops}


def _one(token_id: int, value: float) -> Json:
    return {
        "id": token_id,
        "token": tokens.token_text(token_id),
        "bytes": list(tokens.piece(token_id)),
        "logprob": value,
    }
