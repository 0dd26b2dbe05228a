"""The routes of SGLang's server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import msgspec

from enginebay.testing.simulators.chat_text import render_chat
from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.exchange import UNREADABLE, Exchange, HttpRequest
from enginebay.testing.simulators.openai_answer import Asked, encode_json
from enginebay.testing.simulators.openai_body import MixedPrompt, SamplingBody, prompts_in
from enginebay.testing.simulators.request import SimulatedRequest
from enginebay.testing.simulators.wire import Launch, WireSpec, allowed_methods
from enginebay.testing.simulators.wires.sglang.answers import NativeAnswer, SglangAnswer
from enginebay.testing.simulators.wires.sglang.bodies import (
    DetokenizeBody,
    GenerateBody,
    Refusal,
    SamplingParamsBody,
    SglangChatBody,
    SglangCompletionBody,
    TokenizeBody,
    native_refusal,
    native_sampling,
    openai_refusal,
    openai_sampling,
    prompt_of,
)
from enginebay.testing.simulators.wires.sglang.flags import FLAGS, configure
from enginebay.testing.simulators.wires.sglang.metrics import SglangMetrics

VERSION = "0.5.23"
_GENERATIONS = ("/generate", "/v1/completions", "/v1/chat/completions")
_OPEN = ("/health", "/ready", "/metrics")
_QUEUE_FULL = "The request queue is full."
T = TypeVar("T", bound=msgspec.Struct)


class SglangWire:
    def __init__(self, launch: Launch, engine: SimulatedEngine) -> None:
        self._launch, self._engine, self._values = launch, engine, launch.values
        self._api_key = cast("str | None", self._values["api_key"])
        self._seeds_act = bool(self._values["enable_deterministic_inference"])
        self._metrics = SglangMetrics(launch, engine)
        self._num_answers = 0
        self._routes: dict[tuple[str, str], Callable[[HttpRequest, Exchange], None]] = {
            ("GET", "/health"): lambda _, exchange: exchange.reply(200, b""),
            ("GET", "/health_generate"): lambda _, exchange: exchange.reply(200, b""),
            ("GET", "/ready"): lambda _, exchange: exchange.reply(200, b""),
            ("GET", "/model_info"): self._model_info,
            ("GET", "/server_info"): self._server_info,
            ("GET", "/v1/models"): self._models,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("POST", "/flush_cache"): self._flush_cache,
            ("GET", "/flush_cache"): self._flush_cache,
            ("POST", "/generate"): self._generate,
            ("PUT", "/generate"): self._generate,
            ("POST", "/v1/completions"): self._complete,
            ("POST", "/v1/chat/completions"): self._chat,
        }
        if self._values["enable_metrics"]:
            self._routes["GET", "/metrics"] = self._publish

    # ---------------------------------------------------------------- the Wire protocol

    def is_generation(self, request: HttpRequest) -> bool:
        return request.method in ("POST", "PUT") and request.path in _GENERATIONS

    def handle(self, request: HttpRequest, exchange: Exchange) -> None:
        route = self._routes.get((request.method, request.path))
        try:
            self._authenticate(request)
            if route is not None:
                route(request, exchange)
            elif allowed := allowed_methods(self._routes, request.path):
                exchange.reply(405, encode_json({"detail": "Method Not Allowed"}), headers=allowed)
            else:
                raise Refusal(404, {"detail": "Not Found"})
        except Refusal as refusal:
            exchange.reply(refusal.status, encode_json(refusal.body))

    def while_loading(self, request: HttpRequest, exchange: Exchange) -> None:
        """It listens when the engine is up; until the warm-up request is done, health and readiness say 503."""
        if request.path in ("/health", "/health_generate", "/ready"):
            exchange.reply(503, b"")
        else:
            exchange.abort()

    def when_overloaded(self, request: HttpRequest, exchange: Exchange) -> None:
        refusal = openai_refusal(_QUEUE_FULL, status=503, kind="503")
        exchange.reply(refusal.status, encode_json(refusal.body))

    def when_dead(self, request: HttpRequest, exchange: Exchange) -> None:
        """The server sees its scheduler die and ends itself."""
        exchange.abort()

    # ---------------------------------------------------------------- generations

    def _generate(self, request: HttpRequest, exchange: Exchange) -> None:
        try:
            body = msgspec.json.decode(request.body, type=GenerateBody)
        except UNREADABLE as error:
            raise Refusal(400, {"error": str(error)}) from error
        prompt = prompt_of(body, self._launch.vocabulary)
        sampling = native_sampling(body.sampling_params or SamplingParamsBody(), seeds_act=self._seeds_act)
        self._check_length(len(prompt), sampling.max_tokens, native_refusal)
        self._num_answers += 1
        is_incremental = bool(self._values["incremental_streaming_output"])
        answer = NativeAnswer(exchange, body, is_incremental=is_incremental, num_answer=self._num_answers)
        answer.begin()
        exchange.submit(SimulatedRequest(prompt, sampling, listener=answer))

    def _complete(self, request: HttpRequest, exchange: Exchange) -> None:
        body = _read(request, SglangCompletionBody)
        asked = self._asked(body, form="completions", num_logprobs=body.logprobs)
        max_tokens = 16 if body.max_tokens is None else body.max_tokens
        answer = self._answer(exchange, asked, body)
        try:
            prompts = prompts_in(body.prompt, self._launch.vocabulary, adds_special_tokens=True)
        except MixedPrompt as error:
            raise openai_refusal(str(error), kind="Bad Request") from error
        self._submit(answer, body, prompts, max_tokens, body.no_stop_trim)

    def _chat(self, request: HttpRequest, exchange: Exchange) -> None:
        body = _read(request, SglangChatBody)
        prompt = self._launch.vocabulary.encode(render_chat(body.messages), adds_special_tokens=True)
        num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
        asked = self._asked(body, form="chat", num_logprobs=num_logprobs)
        given = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        max_tokens = max(1, self._launch.profile.max_model_len - len(prompt)) if given is None else given
        self._submit(self._answer(exchange, asked, body), body, [prompt], max_tokens, body.no_stop_trim)

    def _submit(
        self,
        answer: SglangAnswer,
        body: SamplingBody,
        prompts: Sequence[tuple[int, ...]],
        max_tokens: int,
        no_stop_trim: bool,
    ) -> None:
        sampling = openai_sampling(
            body, max_tokens=max_tokens, no_stop_trim=no_stop_trim, seeds_act=self._seeds_act
        )  # fmt: skip
        n = 1 if body.n is None else body.n
        if n < 1:
            raise openai_refusal(f"n must be at least 1, got {n}.")
        for prompt in prompts:
            self._check_length(len(prompt), max_tokens, openai_refusal)
        for prompt in prompts:
            answer.submit(prompt, sampling, n=n)

    def _check_length(self, num_prompt_tokens: int, max_tokens: int, refusal: Callable[[str], Refusal]) -> None:
        limit = self._launch.profile.max_model_len
        if not num_prompt_tokens:
            raise refusal("The prompt must not be empty.")
        if max_tokens < 0:
            raise refusal(f"max_new_tokens must be at least 0, got {max_tokens}.")
        if max_tokens == 0:
            raise refusal("the simulator has no max_new_tokens 0")
        if num_prompt_tokens >= limit:
            what = f"The input ({num_prompt_tokens} tokens) is longer than the model's context length ({limit} tokens)."
            raise refusal(what)
        if num_prompt_tokens + max_tokens > limit:
            raise refusal(
                f"Requested token count exceeds the model's maximum context length of {limit} tokens. You requested "
                f"a total of {num_prompt_tokens + max_tokens} tokens: {num_prompt_tokens} tokens from the input "
                f"messages and {max_tokens} tokens for the completion. Please reduce the number of tokens in the "
                "input messages or the completion to fit within the limit."
            )
        if self._engine.is_full:
            raise openai_refusal(_QUEUE_FULL, status=503, kind="503")

    def _asked(self, body: SamplingBody, *, form: str, num_logprobs: int | None) -> Asked:
        options = body.stream_options
        is_default = bool(self._values["stream_response_default_include_usage"])
        self._num_answers += 1
        return Asked(
            form="chat" if form == "chat" else "completions",
            model=body.model or "default",  # never checked
            id=f"{self._num_answers:032x}",
            is_streamed=bool(body.stream),
            include_usage=is_default or bool(options is not None and options.include_usage),
            continuous_usage=bool(options is not None and options.continuous_usage_stats),
            num_logprobs=num_logprobs,
        )

    def _answer(self, exchange: Exchange, asked: Asked, body: SamplingBody) -> SglangAnswer:
        reports_cached = bool(self._values["enable_cache_report"])
        return SglangAnswer(exchange, asked, wants_ids=bool(body.return_token_ids), reports_cached=reports_cached)

    # ---------------------------------------------------------------- everything else

    def _authenticate(self, request: HttpRequest) -> None:
        if self._api_key is None or request.path.startswith(_OPEN):
            return
        if request.headers.get("authorization") != f"Bearer {self._api_key}":
            raise Refusal(401, {"error": "Unauthorized"})

    def _model_info(self, request: HttpRequest, exchange: Exchange) -> None:
        path = self._values["model_path"] or self._launch.model
        _reply(exchange, {"model_path": path, "tokenizer_path": path, "is_generation": True})

    def _server_info(self, request: HttpRequest, exchange: Exchange) -> None:
        profile = self._launch.profile
        resolved = {
            **self._values,
            "tokenizer_path": self._values["tokenizer_path"] or self._values["model_path"],
            "served_model_name": self._launch.model,
            "max_running_requests": profile.max_num_seqs,
            "max_total_num_tokens": profile.num_kv_tokens,
        }
        _reply(exchange, {**resolved, "api_key": None, "version": VERSION, "internal_states": [{}]})

    def _models(self, request: HttpRequest, exchange: Exchange) -> None:
        root = self._values["model_path"] or self._launch.model
        length = self._launch.profile.max_model_len
        card = {"id": self._launch.model, "object": "model", "created": 0, "root": root, "max_model_len": length}
        _reply(exchange, {"object": "list", "data": [{**card, "owned_by": "sglang"}]})

    def _publish(self, request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, self._metrics.text().encode(), content_type="text/plain; version=0.0.4; charset=utf-8")

    def _flush_cache(self, request: HttpRequest, exchange: Exchange) -> None:
        if self._engine.num_unfinished:
            exchange.reply(400, b"Flush cache failed.\n", content_type="text/plain")
            return
        self._engine.prefix_cache.clear()
        exchange.reply(200, b"Cache flushed.\n", content_type="text/plain")

    def _tokenize(self, request: HttpRequest, exchange: Exchange) -> None:
        body = _read(request, TokenizeBody)
        ids = self._launch.vocabulary.encode(body.prompt, adds_special_tokens=body.add_special_tokens)
        _reply(exchange, {"tokens": ids, "count": len(ids), "max_model_len": self._launch.profile.max_model_len})

    def _detokenize(self, request: HttpRequest, exchange: Exchange) -> None:
        _reply(exchange, {"text": self._launch.vocabulary.decode(_read(request, DetokenizeBody).tokens)})


def _read(request: HttpRequest, form: type[T]) -> T:
    try:
        return msgspec.json.decode(request.body, type=form)
    except UNREADABLE as error:
        raise openai_refusal(str(error), kind="Bad Request") from error


def _reply(exchange: Exchange, body: object) -> None:
    exchange.reply(200, encode_json(body))


WIRE = WireSpec(
    kind="sglang", version=VERSION, flags=FLAGS, configure=configure, create=SglangWire, listens_while_loading=True
)
