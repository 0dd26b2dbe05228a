"""The answers of engines that speak the OpenAI API: whole or streamed, with any number of choices.

A wire derives from `OpenAIAnswer` and adds its engine's own fields through the three `more_*` methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from enginebay.testing.simulators import tokens
from enginebay.testing.simulators.exchange import Exchange
from enginebay.testing.simulators.request import SimulatedRequest, SimulatedSampling, StepToken

Form = Literal["completions", "chat"]
Json = dict[str, object]
encode_json = msgspec.json.Encoder().encode
CREATED = 1_750_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What of a request shapes its answer."""

    form: Form
    model: str
    """As the answer names it."""
    id: str
    is_streamed: bool = False
    include_usage: bool = True
    """Of a stream: one more event with the usage."""
    continuous_usage: bool = False
    num_logprobs: int | None = None
    """Alternatives beside each token; None is no log-probabilities at all."""
    names_tokens_by_id: bool = False
    """In log-probabilities: `token_id:123` instead of the text."""
    tokens_per_event: int = 1
    """Of a stream, after the first token."""
    role_first: bool = True
    """Of a streamed chat: an event with the role and no token goes first."""


class OpenAIAnswer:
    """The listener of all requests of one exchange. `submit` one `SimulatedRequest` for each choice, in their order."""

    def __init__(self, exchange: Exchange, asked: Asked) -> None:
        self.exchange, self.asked = exchange, asked
        self.requests: list[SimulatedRequest] = []
        self._index_of: dict[SimulatedRequest, int] = {}
        self._gathered: list[list[StepToken]] = []
        self._num_unfinished = 0
        self._has_begun = False

    def submit(self, prompt: tuple[int, ...], sampling: SimulatedSampling, *, n: int = 1, cache_salt: str = "") -> None:
        """n choices of one prompt; a seed becomes one seed for each."""
        for index in range(n):
            own = sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + index)
            request = SimulatedRequest(prompt, own, listener=self, cache_salt=cache_salt)
            self._index_of[request] = len(self.requests)
            self.requests.append(request)
            self._gathered.append([])
            self._num_unfinished += 1
            self.exchange.submit(request)

    # ---------------------------------------------------------------- what an engine adds

    def more_in_choice(self, request: SimulatedRequest, step: Sequence[StepToken], *, is_first: bool) -> Json:
        """Fields of `choices[i]`: of one event's tokens, or of all where the answer is whole."""
        return {}

    def more_in_event(self, request: SimulatedRequest | None, *, is_first: bool) -> Json:
        """Fields beside `choices`; request is None in the event that has the usage alone.

        is_first: of this request; the event with the role where there is one, and every whole answer.
        """
        return {}

    def more_in_usage(self, requests: Sequence[SimulatedRequest]) -> Json:
        return {}

    def finish_reason(self, token: StepToken) -> str | None:
        return token.finish_reason

    def failure(self, reason: str) -> tuple[int, object]:
        """(status, JSON body) when the engine dies under a request."""
        return 500, {"error": {"message": reason, "type": "InternalServerError", "param": None, "code": 500}}

    # ---------------------------------------------------------------- told by the engine

    def on_token(self, request: SimulatedRequest, token: StepToken) -> None:
        if token.finish_reason is not None:
            self._num_unfinished -= 1
        if self.asked.is_streamed:
            self._send_token(request, token)
            return
        self._gathered[self._index_of[request]].append(token)
        if self._num_unfinished == 0:
            self.exchange.reply(200, encode_json(self._whole()))

    def on_failure(self, request: SimulatedRequest, reason: str) -> None:
        status, body = self.failure(reason)
        if self._has_begun:
            self.exchange.send(b"data: " + encode_json(body) + b"\n\n")
            self.exchange.send(b"data: [DONE]\n\n")
            self.exchange.finish()
        else:
            self.exchange.reply(status, encode_json(body))

    # ---------------------------------------------------------------- streamed

    def begin(self) -> None:
        """Send the headers now, and the role of each choice. Else they go out with the first token."""
        self._has_begun = True
        self.exchange.begin_stream()
        if self._has_role_event:
            for index, request in enumerate(self.requests):
                choice: Json = {
                    "index": index,
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": None,
                    "finish_reason": None,
                }
                self._send([choice], request, is_first=True, usage=self._usage_now([request]))

    @property
    def _has_role_event(self) -> bool:
        return self.asked.form == "chat" and self.asked.role_first

    def _send_token(self, request: SimulatedRequest, token: StepToken) -> None:
        """The first token at once, later ones as many together as was asked for."""
        if not self._has_begun:
            self.begin()
        step = self._gathered[self._index_of[request]]
        step.append(token)
        is_first = request.num_output_tokens == len(step)
        if is_first or len(step) >= self.asked.tokens_per_event or token.finish_reason is not None:
            text = "".join(token.text for token in step)
            choice = self._choice(request, step, text, is_first=is_first and not self._has_role_event)
            usage = self._usage_now([request])
            self._send([choice], request, is_first=is_first and not self._has_role_event, usage=usage)
            step.clear()
        if self._num_unfinished == 0:
            self._end()

    def _end(self) -> None:
        if self.asked.include_usage:
            self._send([], None, is_first=False, usage=self._usage(self.requests))
        self.exchange.send(b"data: [DONE]\n\n")
        self.exchange.finish()

    def _send(
        self, choices: list[object], request: SimulatedRequest | None, *, is_first: bool, usage: Json | None
    ) -> None:  # fmt: skip
        kind = "chat.completion.chunk" if self.asked.form == "chat" else "text_completion"
        event = self._envelope(kind, choices)
        event.update(self.more_in_event(request, is_first=is_first))
        if usage is not None:
            event["usage"] = usage
        self.exchange.send(b"data: " + encode_json(event) + b"\n\n")

    def _usage_now(self, requests: Sequence[SimulatedRequest]) -> Json | None:
        return self._usage(requests) if self.asked.continuous_usage else None

    # ---------------------------------------------------------------- whole

    def _whole(self) -> Json:
        choices: list[object] = []
        for request, gathered in zip(self.requests, self._gathered, strict=True):
            text = "".join(token.text for token in gathered)
            choices.append(self._choice(request, gathered, text, is_first=True))
        body = self._envelope("chat.completion" if self.asked.form == "chat" else "text_completion", choices)
        body.update(self.more_in_event(self.requests[0], is_first=True))
        body["usage"] = self._usage(self.requests)
        return body

    # ---------------------------------------------------------------- both

    def _envelope(self, kind: str, choices: list[object]) -> Json:
        asked = self.asked
        return {"id": asked.id, "object": kind, "created": CREATED, "model": asked.model, "choices": choices}

    def _choice(self, request: SimulatedRequest, step: Sequence[StepToken], text: str, *, is_first: bool) -> Json:
        asked = self.asked
        choice: Json = {"index": self._index_of[request]}
        if asked.form == "completions":
            choice["text"] = text
        elif asked.is_streamed:
            choice["delta"] = {"content": text}
        else:
            choice["message"] = {"role": "assistant", "content": text}
        choice["logprobs"] = None if asked.num_logprobs is None else self._logprobs(step, asked.num_logprobs)
        choice["finish_reason"] = self.finish_reason(step[-1])
        choice.update(self.more_in_choice(request, step, is_first=is_first))
        return choice

    def _logprobs(self, step: Sequence[StepToken], num: int) -> Json:
        if self.asked.form == "chat":
            return {"content": [self._chat_logprob(token, num) for token in step]}
        return {
            "text_offset": [0] * len(step),
            "token_logprobs": [token.logprob for token in step],
            "tokens": [self._token_name(token.token_id) for token in step],
            "top_logprobs": [self._completion_tops(token, num) for token in step],
        }

    def _completion_tops(self, token: StepToken, num: int) -> Mapping[str, float]:
        """The chosen token beside them, where it is not one of them."""
        tops = {self._token_name(token_id): value for token_id, value in token.alternatives(max(num, 1))}
        return {self._token_name(token.token_id): token.logprob, **tops}

    def _chat_logprob(self, token: StepToken, num: int) -> Json:
        own = self._one_logprob(token.token_id, token.logprob)
        return {**own, "top_logprobs": [self._one_logprob(*other) for other in token.alternatives(num)]}

    def _one_logprob(self, token_id: int, value: float) -> Json:
        return {"token": self._token_name(token_id), "logprob": value, "bytes": list(tokens.piece(token_id))}

    def _token_name(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self.asked.names_tokens_by_id else tokens.token_text(token_id)

    def _usage(self, requests: Sequence[SimulatedRequest]) -> Json:
        """The prompt of several choices counts once for each different one."""
        prompts = {id(request.prompt_token_ids): request.num_prompt_tokens for request in requests}
        num_prompt = sum(prompts.values())
        num_output = sum(request.num_output_tokens for request in requests) + self.exchange.num_wrong_usage
        return {
            "prompt_tokens": num_prompt,
            "total_tokens": num_prompt + num_output,
            "completion_tokens": num_output,
            **self.more_in_usage(requests),
        }
