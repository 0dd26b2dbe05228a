"""Answers of /generate, /generate_stream and the compatible route `/`."""

from __future__ import annotations

from enginebay.testing.simulators.exchange import Exchange
from enginebay.testing.simulators.wires.tgi.errors import Refusal, event
from enginebay.testing.simulators.wires.tgi.generation import Generation, JsonFields
from enginebay.testing.simulators.wires.tgi.headers import encode, stream_headers, whole_headers


class NativeStream:
    """One event a token. Nothing marks the end but the end of the body."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def begin(self, num_characters: int) -> None:
        """200 comes first, whatever becomes of the request."""
        self._exchange.begin_stream(headers=stream_headers(num_characters))

    def refuse(self, refusal: Refusal) -> None:
        self._exchange.send(event(refusal.body()))
        self._exchange.finish()

    def on_token(self, generation: Generation) -> None:
        gathered = generation.gathered
        fields: JsonFields = {"index": generation.num_generated_tokens, "token": gathered.tokens[-1]}
        if gathered.top_tokens:
            fields["top_tokens"] = gathered.top_tokens[-1]
        fields |= {"generated_text": None, "details": None}
        if gathered.finish is not None:
            fields["generated_text"] = gathered.text(generation.valid)
            if generation.valid.has_details:
                fields["details"] = self._details(generation)
        self._exchange.send(event(encode(fields)))
        if gathered.finish is not None:
            self._exchange.finish()

    def _details(self, generation: Generation) -> JsonFields:
        return {
            "finish_reason": generation.gathered.finish,
            "generated_tokens": generation.num_generated_tokens + self._exchange.num_wrong_usage,
            "seed": generation.seed,
            "input_length": len(generation.valid.prompt_token_ids),
        }


class NativeWhole:
    def __init__(self, exchange: Exchange, *, is_compatible: bool, has_prefill_logprobs: bool) -> None:
        """is_compatible: the answer stands in a list."""
        self._exchange, self._is_compatible = exchange, is_compatible
        self._has_prefill_logprobs = has_prefill_logprobs

    def refuse(self, refusal: Refusal) -> None:
        self._exchange.reply(refusal.status, refusal.body())

    def on_token(self, generation: Generation) -> None:
        if generation.gathered.finish is None:
            return
        answer = self._answer(generation)
        self._exchange.reply(
            200,
            encode([answer] if self._is_compatible else answer),
            headers=whole_headers(
                len(generation.valid.inputs), len(generation.valid.prompt_token_ids), generation.num_generated_tokens
            ),
        )

    def _answer(self, generation: Generation) -> JsonFields:
        gathered, valid = generation.gathered, generation.valid
        answer: JsonFields = {"generated_text": gathered.text(valid)}
        if not valid.has_details:
            return answer
        details: JsonFields = {
            "finish_reason": gathered.finish,
            "generated_tokens": generation.num_generated_tokens + self._exchange.num_wrong_usage,
            "seed": generation.seed,
            "prefill": generation.prefill() if valid.has_prefill and self._has_prefill_logprobs else [],
            "tokens": gathered.tokens,
        }
        if gathered.top_tokens:
            details["top_tokens"] = gathered.top_tokens
        return {**answer, "details": details}
