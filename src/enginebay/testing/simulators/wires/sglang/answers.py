"""Answers of SGLang: native ones, which repeat all text so far unless told otherwise, and those of OpenAI routes."""

from __future__ import annotations

from collections.abc import Sequence

from enginebay.testing.simulators import tokens
from enginebay.testing.simulators.exchange import Exchange
from enginebay.testing.simulators.openai_answer import Asked, Json, OpenAIAnswer, encode_json
from enginebay.testing.simulators.request import SimulatedRequest, StepToken
from enginebay.testing.simulators.wires.sglang.bodies import GenerateBody


class NativeAnswer:
    def __init__(self, exchange: Exchange, body: GenerateBody, *, is_incremental: bool, num_answer: int) -> None:
        self._exchange, self._body, self._is_incremental = exchange, body, is_incremental
        self._id = body.rid or f"{num_answer:032x}"
        self._tokens: list[StepToken] = []

    def begin(self) -> None:
        if self._body.stream:
            self._exchange.begin_stream()

    def on_token(self, request: SimulatedRequest, token: StepToken) -> None:
        self._tokens.append(token)
        is_last = token.finish_reason is not None
        if self._body.stream:
            new = self._tokens[-1:] if self._is_incremental else self._tokens
            self._send(self._answer(request, new, token))
            if is_last:
                self._exchange.send(b"data: [DONE]\n\n")
                self._exchange.finish()
        elif is_last:
            self._exchange.reply(200, encode_json(self._answer(request, self._tokens, token)))

    def on_failure(self, request: SimulatedRequest, reason: str) -> None:
        """The scheduler gives a request up by its finish reason, with status 200 where the stream has begun."""
        abort = {"type": "abort", "message": reason, "status_code": 500, "err_type": "InternalServerError"}
        if self._body.stream:
            self._send({"text": "", "output_ids": [], "meta_info": {**self._meta(request, []), "finish_reason": abort}})
            self._exchange.send(b"data: [DONE]\n\n")
            self._exchange.finish()
        else:
            self._exchange.reply(500, encode_json({"error": {"message": reason}}))

    def _send(self, event: Json) -> None:
        self._exchange.send(b"data: " + encode_json(event) + b"\n\n")

    def _answer(self, request: SimulatedRequest, shown: Sequence[StepToken], last: StepToken) -> Json:
        meta = self._meta(request, shown)
        if last.finish_reason is not None:
            meta["finish_reason"] = _finish_reason(request, last)
            meta["e2e_latency"] = request.last_token_at - request.arrived_at
        text = "".join(token.text for token in shown)
        return {"text": text, "output_ids": [token.token_id for token in shown], "meta_info": meta}

    def _meta(self, request: SimulatedRequest, shown: Sequence[StepToken]) -> Json:
        num_output = request.num_output_tokens + self._exchange.num_wrong_usage
        meta: Json = {
            "id": self._id,
            "finish_reason": None,
            "prompt_tokens": request.num_prompt_tokens,
            "completion_tokens": num_output,
            "cached_tokens": request.num_cached_tokens,
            "weight_version": "default",
            "num_retractions": request.num_preemptions,
        }
        if self._body.return_logprob:
            num = self._body.top_logprobs_num or 0
            meta["output_token_logprobs"] = [self._logprob(token.logprob, token.token_id) for token in shown]
            tops = [[self._logprob(value, each) for each, value in token.alternatives(num)] for token in shown]
            meta["output_top_logprobs"] = tops
        return meta

    def _logprob(self, value: float, token_id: int) -> tuple[float, int, str | None]:
        return value, token_id, tokens.token_text(token_id) if self._body.return_text_in_logprobs else None


def _finish_reason(request: SimulatedRequest, token: StepToken) -> Json:
    if token.finish_reason == "length":
        return {"type": "length", "length": request.num_output_tokens}
    return {"type": "stop", "matched": tokens.END_ID if token.stop_reason is None else token.stop_reason}


class SglangAnswer(OpenAIAnswer):
    def __init__(self, exchange: Exchange, asked: Asked, *, wants_ids: bool, reports_cached: bool) -> None:
        super().__init__(exchange, asked)
        self._wants_ids, self._reports_cached = wants_ids, reports_cached

    def more_in_choice(self, request: SimulatedRequest, step: Sequence[StepToken], *, is_first: bool) -> Json:
        last = step[-1]
        matched = tokens.END_ID if last.finish_reason == "stop" and last.stop_reason is None else last.stop_reason
        fields: Json = {"matched_stop": matched if last.finish_reason is not None else None}
        if self._wants_ids and self.asked.form == "completions":
            fields["token_ids"] = [token.token_id for token in step]
            if is_first:
                fields["prompt_token_ids"] = request.prompt_token_ids
        return fields

    def more_in_usage(self, requests: Sequence[SimulatedRequest]) -> Json:
        cached = sum(request.num_cached_tokens for request in requests)
        details = {"cached_tokens": cached} if self._reports_cached else None
        return {"prompt_tokens_details": details, "reasoning_tokens": 0}

    def failure(self, reason: str) -> tuple[int, object]:
        detail = {"object": "error", "message": reason, "type": "InternalServerError", "param": None, "code": 500}
        return 500, {"error": detail}
