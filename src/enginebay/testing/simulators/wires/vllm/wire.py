"""The routes of vLLM, and what it adds to the answers of the OpenAI API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import msgspec

from enginebay.testing.simulators import tokens
from enginebay.testing.simulators.chat_text import render_chat
from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.exchange import UNREADABLE, Exchange, HttpRequest
from enginebay.testing.simulators.flags import Values
from enginebay.testing.simulators.openai_answer import Asked, Json, OpenAIAnswer, encode_json
from enginebay.testing.simulators.openai_body import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    MixedPrompt,
    SamplingBody,
    TokenizeBody,
    prompts_in,
)
from enginebay.testing.simulators.performance import SimulatorProfile
from enginebay.testing.simulators.request import SimulatedRequest, SimulatedSampling, StepToken
from enginebay.testing.simulators.vocabulary import vocabulary_of
from enginebay.testing.simulators.wire import DEFAULT_MODEL, Launch, WireSpec, allowed_methods
from enginebay.testing.simulators.wires.vllm.checks import Refusal, check_body, error_body
from enginebay.testing.simulators.wires.vllm.flags import DEFAULT_MEMORY_FRACTION, FLAGS
from enginebay.testing.simulators.wires.vllm.metrics import VllmMetrics

VERSION = "0.32.0"
DEFAULT_MAX_TOKENS = 16
_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
_FORMS = ("/v1/completions", "/v1/chat/completions")
T = TypeVar("T", bound=msgspec.Struct)


def configure(values: Values, profile: SimulatorProfile) -> Launch:
    names = cast("list[str] | None", values["served_model_name"])
    max_model_len = cast(int, values["max_model_len"] or profile.max_model_len)
    fraction = cast(float, values["gpu_memory_utilization"])
    num_blocks = values["num_gpu_blocks_override"] or round(profile.num_blocks * fraction / DEFAULT_MEMORY_FRACTION)
    profile = replace(
        profile,
        max_num_seqs=values["max_num_seqs"] or profile.max_num_seqs,
        max_num_batched_tokens=values["max_num_batched_tokens"] or profile.max_num_batched_tokens,
        max_model_len=profile.max_model_len if max_model_len < 0 else max_model_len,
        num_blocks=num_blocks,
        block_size=values["block_size"] or profile.block_size,
        prefix_caching=values["enable_prefix_caching"] is not False,
        max_num_queued=values["max_num_queued_reqs"],
    )  # fmt: skip
    model = names[0] if names else cast("str | None", values["model_tag"] or values["model"]) or DEFAULT_MODEL
    vocabulary = vocabulary_of(values["tokenizer"] or values["model_tag"] or values["model"])
    port = cast("int | None", values["port"])
    return Launch(model=model, profile=profile, values=values, port=port, vocabulary=vocabulary)


class VllmWire:
    def __init__(self, launch: Launch, engine: SimulatedEngine) -> None:
        self._launch, self._engine = launch, engine
        self._vocabulary = launch.vocabulary
        self._values = launch.values
        self._names = cast("list[str] | None", self._values["served_model_name"]) or [launch.model]
        self._api_keys = {f"Bearer {key}" for key in cast("list[str] | None", self._values["api_key"]) or ()}
        self._metrics = VllmMetrics(launch, engine)
        self._num_answers = 0
        self._routes: dict[tuple[str, str], Callable[[HttpRequest, Exchange], None]] = {
            ("POST", "/v1/completions"): self._complete,
            ("POST", "/v1/chat/completions"): self._chat,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health,
            ("GET", "/version"): lambda _, exchange: _reply(exchange, {"version": VERSION}),
            ("GET", "/metrics"): self._publish,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
        }
        if self._values["VLLM_SERVER_DEV_MODE"]:
            self._routes["POST", "/reset_prefix_cache"] = self._reset_prefix_cache

    # ---------------------------------------------------------------- the Wire protocol

    def is_generation(self, request: HttpRequest) -> bool:
        return request.method == "POST" and request.path in _FORMS

    def handle(self, request: HttpRequest, exchange: Exchange) -> None:
        route = self._routes.get((request.method, request.path))
        try:
            self._authenticate(request)
            if route is not None:
                route(request, exchange)
            elif allowed := allowed_methods(self._routes, request.path):
                refusal = Refusal(405, "Method Not Allowed", "Method Not Allowed")
                exchange.reply(405, encode_json(refusal.body), headers=allowed)
            else:
                raise Refusal(404, "Not Found", "Not Found")
        except Refusal as refusal:
            exchange.reply(refusal.status, encode_json(refusal.body))

    def while_loading(self, request: HttpRequest, exchange: Exchange) -> None:
        """The real one does not listen until the engine is up."""
        exchange.abort()

    def when_overloaded(self, request: HttpRequest, exchange: Exchange) -> None:
        refusal = self._overloaded()
        exchange.reply(refusal.status, encode_json(refusal.body))

    def when_dead(self, request: HttpRequest, exchange: Exchange) -> None:
        if request.path in ("/health", "/ping"):
            exchange.reply(503, b"")
        elif self.is_generation(request):
            reason = self._engine.death_reason or ""
            exchange.reply(500, encode_json(error_body(500, reason, "InternalServerError")))
        else:
            self.handle(request, exchange)

    # ---------------------------------------------------------------- generations

    def _complete(self, request: HttpRequest, exchange: Exchange) -> None:
        body = _read(request, CompletionBody)
        self._check(body, default_max_tokens=DEFAULT_MAX_TOKENS)
        try:
            prompts = prompts_in(
                body.prompt, self._vocabulary, adds_special_tokens=body.add_special_tokens is not False
            )
        except MixedPrompt as error:
            raise Refusal(400, str(error), "Bad Request", param="prompt") from error
        prompts = [_truncated(prompt, body) for prompt in prompts]
        asked = self._asked(body, exchange, form="completions", num_logprobs=body.logprobs)
        self._submit(body, prompts, _VllmAnswer(exchange, asked, body, self._shows_cached), body.max_tokens)

    def _chat(self, request: HttpRequest, exchange: Exchange) -> None:
        body = _read(request, ChatBody)
        self._check(body, default_max_tokens=None)
        prompt = _truncated(self._vocabulary.encode(render_chat(body.messages), adds_special_tokens=False), body)
        given = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        max_tokens = max(1, self._max_len - len(prompt)) if given is None else given
        num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
        asked = self._asked(body, exchange, form="chat", num_logprobs=num_logprobs)
        self._submit(body, [prompt], _VllmAnswer(exchange, asked, body, self._shows_cached), max_tokens)

    def _check(self, body: SamplingBody, *, default_max_tokens: int | None) -> None:
        if body.model is not None and body.model not in self._names:
            raise Refusal(404, f"The model `{body.model}` does not exist.", "NotFoundError", param="model")
        if body.max_tokens is None:
            body.max_tokens = default_max_tokens
        check_body(body, max_logprobs=cast(int, self._values["max_logprobs"]))

    def _submit(
        self, body: SamplingBody, prompts: Sequence[tuple[int, ...]], answer: _VllmAnswer, max_tokens: int | None
    ) -> None:  # fmt: skip
        wanted = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
        if wanted < 1:
            raise Refusal(400, f"max_tokens must be at least 1, got {wanted}.", "BadRequestError", param="max_tokens")
        for prompt in prompts:
            self._check_length(prompt, wanted)
        self._admit(sum(map(len, prompts)))
        if answer.asked.is_streamed and answer.asked.form == "completions":
            answer.begin()
        sampling = _sampling(body, wanted)
        for prompt in prompts:
            answer.submit(prompt, sampling, n=1 if body.n is None else body.n, cache_salt=body.cache_salt or "")

    def _admit(self, num_prompt_tokens: int) -> None:
        limit = cast("int | None", self._values["max_num_queued_tokens"])
        if self._engine.is_full:
            self._metrics.num_rejected += 1
        elif limit is not None and self._engine.num_tokens_to_prefill + num_prompt_tokens > limit:
            self._metrics.num_rejected_for_tokens += 1
        else:
            return
        raise self._overloaded()

    def _check_length(self, prompt: tuple[int, ...], max_tokens: int) -> None:
        what = f"This model's maximum context length is {self._max_len} tokens"
        if not prompt:
            raise Refusal(400, "The decoder prompt cannot be empty", "BadRequestError")
        if len(prompt) >= self._max_len:
            problem = f"{what}. However, your request has {len(prompt)} input tokens. Please reduce the length of the "
            raise Refusal(400, f"{problem}input messages.", "BadRequestError", param="input_tokens")
        if len(prompt) + max_tokens > self._max_len:
            problem = f"'max_tokens' or 'max_completion_tokens' is too large: {max_tokens}. {what} and your request "
            sums = f"has {len(prompt)} input tokens ({max_tokens} > {self._max_len} - {len(prompt)})."
            raise Refusal(400, problem + sums, "BadRequestError", param="max_tokens")

    def _asked(self, body: SamplingBody, exchange: Exchange, *, form: str, num_logprobs: int | None) -> Asked:
        self._num_answers += 1
        options = body.stream_options
        is_forced = bool(self._values["enable_force_include_usage"])
        prefix = "chatcmpl" if form == "chat" else "cmpl"
        return Asked(
            form="chat" if form == "chat" else "completions",
            model=body.model or self._launch.model,
            id=f"{prefix}-{body.request_id or f'{self._num_answers:032x}'}",
            is_streamed=bool(body.stream),
            include_usage=is_forced or bool(options is not None and options.include_usage),
            continuous_usage=is_forced or bool(options is not None and options.continuous_usage_stats),
            num_logprobs=num_logprobs,
            names_tokens_by_id=bool(body.return_tokens_as_token_ids),
            tokens_per_event=cast(int, body.stream_interval or self._values["stream_interval"]),
        )

    @property
    def _max_len(self) -> int:
        return self._launch.profile.max_model_len

    @property
    def _shows_cached(self) -> bool:
        return bool(self._values["enable_prompt_tokens_details"])

    def _overloaded(self) -> Refusal:
        return Refusal(503, "The server has too many queued requests. Please try again later.", "Service Unavailable")

    # ---------------------------------------------------------------- everything else

    def _authenticate(self, request: HttpRequest) -> None:
        is_guarded = bool(self._api_keys) and request.path.startswith(_GUARDED)
        if is_guarded and request.headers.get("authorization") not in self._api_keys:
            raise Refusal(401, body={"error": "Unauthorized"})

    def _health(self, request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, b"")

    def _publish(self, request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, self._metrics.text().encode(), content_type="text/plain; version=0.0.4; charset=utf-8")

    def _models(self, request: HttpRequest, exchange: Exchange) -> None:
        root = cast("str | None", self._values["model_tag"] or self._values["model"]) or self._launch.model
        cards = [
            {
                "id": name, "object": "model", "created": 0, "owned_by": "vllm", "root": root, "parent": None,
                "max_model_len": self._max_len, "permission": [],
            }
            for name in self._names
        ]  # fmt: skip
        _reply(exchange, {"object": "list", "data": cards})

    def _tokenize(self, request: HttpRequest, exchange: Exchange) -> None:
        body = _read(request, TokenizeBody)
        if body.messages is not None:
            text, adds_special_tokens = render_chat(body.messages), bool(body.add_special_tokens)
        else:
            text, adds_special_tokens = body.prompt or "", body.add_special_tokens is not False
        ids = self._vocabulary.encode(text, adds_special_tokens=adds_special_tokens)
        strings = [self._vocabulary.token_text(token_id) for token_id in ids] if body.return_token_strs else None
        fields = {"count": len(ids), "max_model_len": self._max_len, "tokens": ids, "token_strs": strings}
        _reply(exchange, fields)

    def _detokenize(self, request: HttpRequest, exchange: Exchange) -> None:
        _reply(exchange, {"prompt": self._vocabulary.decode(_read(request, DetokenizeBody).tokens)})

    def _reset_prefix_cache(self, request: HttpRequest, exchange: Exchange) -> None:
        self._engine.prefix_cache.clear()
        exchange.reply(200, b"")


class _VllmAnswer(OpenAIAnswer):
    def __init__(self, exchange: Exchange, asked: Asked, body: SamplingBody, shows_cached: bool) -> None:
        super().__init__(exchange, asked)
        self._wants_ids = bool(body.return_token_ids)
        self._num_prompt_logprobs = body.prompt_logprobs
        self._shows_cached = shows_cached

    def more_in_choice(self, request: SimulatedRequest, step: Sequence[StepToken], *, is_first: bool) -> Json:
        fields: Json = {"stop_reason": step[-1].stop_reason}
        if self._wants_ids:
            fields["token_ids"] = [token.token_id for token in step]
            if self.asked.form == "completions" and is_first:
                fields["prompt_token_ids"] = request.prompt_token_ids
        if self._num_prompt_logprobs is not None and self.asked.form == "completions":
            fields["prompt_logprobs"] = _prompt_logprobs(request.prompt_token_ids)
        return fields

    def more_in_event(self, request: SimulatedRequest | None, *, is_first: bool) -> Json:
        if self.asked.form == "completions" or request is None or not is_first:
            return {}
        fields: Json = {}
        if self._num_prompt_logprobs is not None:
            fields["prompt_logprobs"] = _prompt_logprobs(request.prompt_token_ids)
        if self._wants_ids:
            fields["prompt_token_ids"] = request.prompt_token_ids
        return fields

    def more_in_usage(self, requests: Sequence[SimulatedRequest]) -> Json:
        if not self._shows_cached:
            return {}
        return {"prompt_tokens_details": {"cached_tokens": sum(request.num_cached_tokens for request in requests)}}

    def failure(self, reason: str) -> tuple[int, object]:
        return 500, error_body(500, reason, "InternalServerError")


def _read(request: HttpRequest, form: type[T]) -> T:
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("application/json"):
        raise Refusal(400, "Unsupported Media Type: Only 'application/json' is allowed", "Bad Request")
    try:
        return msgspec.json.decode(request.body, type=form)
    except UNREADABLE as error:
        raise Refusal(400, str(error), "Bad Request") from error


def _truncated(prompt: tuple[int, ...], body: SamplingBody) -> tuple[int, ...]:
    return prompt if body.truncate_prompt_tokens is None else prompt[-body.truncate_prompt_tokens :]


def _sampling(body: SamplingBody, max_tokens: int) -> SimulatedSampling:
    return SimulatedSampling(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        filters=body.filters,
        seed=None if body.seed == -1 else body.seed,
        stop=body.stops,
        include_stop=bool(body.include_stop_str_in_output),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        min_tokens=body.min_tokens or 0,
    )


def _prompt_logprobs(prompt: tuple[int, ...]) -> list[Json | None]:
    def one(token_id: int) -> Json:
        value = {"logprob": tokens.prompt_logprob(token_id), "rank": 1, "decoded_token": tokens.token_text(token_id)}
        return {str(token_id): value}

    return [None, *(one(token_id) for token_id in prompt[1:])]


def _reply(exchange: Exchange, body: object) -> None:
    exchange.reply(200, encode_json(body))


WIRE = WireSpec(kind="vllm", version=VERSION, flags=FLAGS, configure=configure, create=VllmWire)
