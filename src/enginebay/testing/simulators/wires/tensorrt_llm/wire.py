"""The routes of trtllm-serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

from enginebay.testing.simulators.chat_text import render_chat
from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.exchange import Exchange, HttpRequest
from enginebay.testing.simulators.openai_answer import Asked, Form, Json, OpenAIAnswer, encode_json
from enginebay.testing.simulators.openai_body import MixedPrompt, prompts_in
from enginebay.testing.simulators.request import SimulatedRequest, StepToken
from enginebay.testing.simulators.vocabulary import Vocabulary
from enginebay.testing.simulators.wire import Launch, WireSpec, allowed_methods
from enginebay.testing.simulators.wires.tensorrt_llm.bodies import (
    Body,
    ChatBody,
    CompletionBody,
    Refusal,
    TokenizeBody,
    check_body,
    error_body,
    read_body,
    sampling_of,
)
from enginebay.testing.simulators.wires.tensorrt_llm.flags import FLAGS, configure, options_of
from enginebay.testing.simulators.wires.tensorrt_llm.iterations import IterationMetrics
from enginebay.testing.simulators.wires.tensorrt_llm.metrics import TrtllmMetrics

VERSIONS = {"1.2": "1.2.1", "1.3": "1.3.0rc9", "1.4": "1.4.0rc1"}
EMPTY_METRICS_WAIT_S = 2.0
_FORMS = ("/v1/completions", "/v1/chat/completions")


class TrtllmWire:
    def __init__(self, launch: Launch, engine: SimulatedEngine) -> None:
        self._launch, self._engine = launch, engine
        self._options = options_of(launch.values)
        self._iterations = engine.metrics = IterationMetrics(engine)
        self._metrics = TrtllmMetrics(engine, self._options, pid=os.getpid())
        self._num_answers = 0
        self._routes: dict[tuple[str, str], Callable[[HttpRequest, Exchange], None]] = {
            ("POST", "/v1/completions"): self._complete,
            ("POST", "/v1/chat/completions"): self._chat,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): lambda _, exchange: exchange.reply(200, b""),
            ("GET", "/version"): self._version,
            ("GET", "/metrics"): self._drain,
            ("GET", "/perf_metrics"): lambda _, exchange: _reply(exchange, []),
        }
        if self._options.has_prometheus:
            self._routes["GET", "/prometheus/metrics"] = self._publish
        if self._options.release == "1.4":
            self._routes["POST", "/_internal/tokenize"] = self._tokenize

    # ---------------------------------------------------------------- the Wire protocol

    def is_generation(self, request: HttpRequest) -> bool:
        return request.method == "POST" and request.path in _FORMS

    def handle(self, request: HttpRequest, exchange: Exchange) -> None:
        route = self._routes.get((request.method, request.path))
        if route is None:
            _refuse_path(exchange, allowed_methods(self._routes, request.path))
            return
        try:
            route(request, exchange)
        except Refusal as refusal:
            body = error_body(refusal.message, release=self._options.release, is_schema=refusal.is_schema)
            exchange.reply(400, encode_json(body))

    def while_loading(self, request: HttpRequest, exchange: Exchange) -> None:
        exchange.abort()

    def when_overloaded(self, request: HttpRequest, exchange: Exchange) -> None:
        """Requests queue without bound."""
        self.handle(request, exchange)

    def when_dead(self, request: HttpRequest, exchange: Exchange) -> None:
        """An executor that fails ends the server; line 1.3 may still say so."""
        if request.path == "/health" and self._options.release != "1.2":
            exchange.reply(503, b"LLM is shutting down", content_type="text/plain")
        else:
            exchange.abort()

    # ---------------------------------------------------------------- generations

    def _complete(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read_body(request, CompletionBody)
        self._check(body)
        answer = _TrtllmAnswer(exchange, self._asked(body, "completions", body.logprobs), body.detokenize)
        self._submit(body, _prompts(body, self._launch.vocabulary), answer, body.max_tokens)

    def _chat(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read_body(request, ChatBody)
        self._check(body)
        prompt = tuple(body.prompt_token_ids or ()) or self._launch.vocabulary.encode(
            render_chat(body.messages), adds_special_tokens=body.add_special_tokens
        )
        num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
        answer = _TrtllmAnswer(exchange, self._asked(body, "chat", num_logprobs), body.detokenize)
        max_tokens = body.max_completion_tokens or body.max_tokens
        self._submit(body, [prompt], answer, max_tokens, cache_salt=body.cache_salt or "")

    def _check(self, body: Body) -> None:
        check_body(body, release=self._options.release, has_guided_decoding=self._options.has_guided_decoding)

    def _submit(
        self,
        body: Body,
        prompts: Sequence[tuple[int, ...]],
        answer: _TrtllmAnswer,
        max_tokens: int | None,
        *,
        cache_salt: str = "",
    ) -> None:
        if body.truncate_prompt_tokens is not None:
            prompts = [prompt[-body.truncate_prompt_tokens :] for prompt in prompts]
        wanted = [self._max_tokens(prompt, max_tokens) for prompt in prompts]
        for prompt, num_tokens in zip(prompts, wanted, strict=True):
            answer.submit(prompt, sampling_of(body, num_tokens), n=body.n, cache_salt=cache_salt)

    def _max_tokens(self, prompt: tuple[int, ...], max_tokens: int | None) -> int:
        """null is all that is left of the context. Raises Refusal."""
        limit = self._launch.profile.max_model_len
        if not prompt:
            raise Refusal("prompt is empty")
        wanted = limit - len(prompt) if max_tokens is None else max_tokens
        if len(prompt) + wanted > limit or wanted < 1:
            raise Refusal(
                f"The sum of prompt length ({float(len(prompt))}) and query length (0) max_tokens ({wanted}) "
                f"should not exceed max_seq_len ({limit})"
            )
        return wanted

    def _asked(self, body: Body, form: Form, num_logprobs: int | None) -> Asked:
        self._num_answers += 1
        options = body.stream_options
        prefix = "chatcmpl" if form == "chat" else "cmpl"
        return Asked(
            form=form,
            model=body.model,  # any name is answered
            id=f"{prefix}-{self._num_answers:032x}",
            is_streamed=bool(body.stream),
            include_usage=options is not None and options.include_usage is not False,
            continuous_usage=options is not None and bool(options.continuous_usage_stats),
            num_logprobs=num_logprobs,
        )

    # ---------------------------------------------------------------- everything else

    def _models(self, request: HttpRequest, exchange: Exchange) -> None:
        card = {"id": self._launch.model, "object": "model", "created": 0, "owned_by": "tensorrt_llm"}
        _reply(exchange, {"object": "list", "data": [card]})

    def _version(self, request: HttpRequest, exchange: Exchange) -> None:
        _reply(exchange, {"version": VERSIONS[self._options.release]})

    def _publish(self, request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, self._metrics.text().encode(), content_type="text/plain; version=0.0.4; charset=utf-8")

    def _drain(self, request: HttpRequest, exchange: Exchange) -> None:
        """From line 1.3 on a reader inside the server has emptied the list before."""
        entries = self._iterations.drain()
        is_read_inside = self._options.release != "1.2" and self._options.has_prometheus
        if not self._options.has_iteration_stats or is_read_inside:
            entries = []
        if entries or self._launch.profile.pace != "modelled":
            _reply(exchange, entries)
            return
        asyncio.get_running_loop().call_later(EMPTY_METRICS_WAIT_S, _reply, exchange, [])

    def _tokenize(self, request: HttpRequest, exchange: Exchange) -> None:
        ids = self._launch.vocabulary.encode(read_body(request, TokenizeBody).prompt, adds_special_tokens=False)
        _reply(exchange, {"count": len(ids), "tokens": ids})


class _TrtllmAnswer(OpenAIAnswer):
    def __init__(self, exchange: Exchange, asked: Asked, has_text: bool) -> None:
        super().__init__(exchange, asked)
        self._has_text = has_text

    def more_in_choice(self, request: SimulatedRequest, step: Sequence[StepToken], *, is_first: bool) -> Json:
        fields: Json = {"stop_reason": step[-1].stop_reason}
        if self.asked.form == "completions":
            ids = None if self._has_text else [token.token_id for token in step]
            fields |= {"token_ids": ids, "context_logits": None, "disaggregated_params": None}
            fields["avg_decoded_tokens_per_iter"] = None
        return fields

    def more_in_usage(self, requests: Sequence[SimulatedRequest]) -> Json:
        return {"prompt_tokens_details": {"cached_tokens": sum(request.num_cached_tokens for request in requests)}}

    def failure(self, reason: str) -> tuple[int, object]:
        return 400, error_body(f"executor failed: {reason}")

    def on_failure(self, request: SimulatedRequest, reason: str) -> None:
        """In the middle of a stream the connection breaks, without an event that says why."""
        if self._has_begun:
            self.exchange.abort()
        else:
            super().on_failure(request, reason)

    def _choice(self, request: SimulatedRequest, step: Sequence[StepToken], text: str, *, is_first: bool) -> Json:
        return super()._choice(request, step, text if self._has_text else "", is_first=is_first)

    def _send(
        self, choices: list[object], request: SimulatedRequest | None, *, is_first: bool, usage: Json | None
    ) -> None:  # fmt: skip
        """A streamed chat leaves nulls out; its event with the role has a blank before the line ends."""
        if self.asked.form == "completions":
            super()._send(choices, request, is_first=is_first, usage=usage)
            return
        has_role = any(isinstance(choice, dict) and "role" in choice["delta"] for choice in choices)
        event = self._envelope("chat.completion.chunk", [_without_nulls(choice) for choice in choices])
        if usage is not None:
            event["usage"] = usage
        self.exchange.send(b"data: " + encode_json(event) + (b" \n\n" if has_role else b"\n\n"))


def _without_nulls(choice: object) -> object:
    return {key: value for key, value in choice.items() if value is not None} if isinstance(choice, dict) else choice


def _prompts(body: CompletionBody, vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    try:
        return prompts_in(body.prompt, vocabulary, adds_special_tokens=body.add_special_tokens)
    except MixedPrompt as error:
        raise Refusal(str(error), is_schema=True) from error


def _refuse_path(exchange: Exchange, allowed: dict[str, str]) -> None:
    """allowed: the header of a path that exists."""
    status, detail = (405, "Method Not Allowed") if allowed else (404, "Not Found")
    exchange.reply(status, encode_json({"detail": detail}), headers=allowed)


def _reply(exchange: Exchange, body: object) -> None:
    exchange.reply(200, encode_json(body))


WIRE = WireSpec(
    kind="tensorrt_llm",
    version=VERSIONS["1.2"],
    flags=FLAGS,
    configure=configure,
    create=TrtllmWire,
    metrics_path="/prometheus/metrics",
)
