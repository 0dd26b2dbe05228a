"""TGI's routes."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping

from enginebay.testing.simulators.chat_text import render_chat
from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.exchange import Exchange, HttpRequest
from enginebay.testing.simulators.wire import Launch
from enginebay.testing.simulators.wires.tgi.errors import Refusal, Unreadable, overloaded, shard_failed
from enginebay.testing.simulators.wires.tgi.generation import Generation
from enginebay.testing.simulators.wires.tgi.headers import encode
from enginebay.testing.simulators.wires.tgi.metrics import TgiMetrics
from enginebay.testing.simulators.wires.tgi.native import NativeStream, NativeWhole
from enginebay.testing.simulators.wires.tgi.openai import ChatAnswer, CompletionAnswer
from enginebay.testing.simulators.wires.tgi.requests import (
    ChatBody,
    CompatBody,
    CompletionBody,
    GenerateBody,
    read,
)
from enginebay.testing.simulators.wires.tgi.tokenizing import tokenized
from enginebay.testing.simulators.wires.tgi.validation import (
    Limits,
    ValidRequest,
    chat_parameters,
    completion_parameters,
    validate,
)

VERSION, COMMIT = "3.3.6-dev0", "dfb3fbe78e0d1d69251bd33065591c61bafdfaa8"
"""What release 3.3.7 says of itself, and the commit that it was made from."""
_GUARDED = frozenset({"/", "/generate", "/generate_stream", "/v1/completions", "/v1/chat/completions", "/tokenize"})
_GENERATIONS = _GUARDED - {"/tokenize"}
_UNHEALTHY = Refusal("healthcheck", "unhealthy")
_PLAIN_TEXT = "text/plain; charset=utf-8"
Route = Callable[[HttpRequest, Exchange], None]


class TgiWire:
    def __init__(self, launch: Launch, engine: SimulatedEngine) -> None:
        self._launch, self._engine = launch, engine
        self._limits = Limits.of(launch.values)
        self._metrics = TgiMetrics(
            engine,
            max_input_tokens=self._limits.max_input_tokens,
            max_total_tokens=self._limits.max_total_tokens,
        )
        self._num_drawn_seeds = 0
        self._routes: Mapping[tuple[str, str], Route] = {
            ("GET", "/"): self._health,
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("GET", "/info"): self._info,
            ("GET", "/v1/models"): self._models,
            ("GET", "/metrics"): self._expose,
            ("POST", "/"): self._compatible,
            ("POST", "/generate"): self._generate,
            ("POST", "/generate_stream"): self._generate_stream,
            ("POST", "/v1/completions"): self._complete,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/chat_tokenize"): self._tokenize_chat,
        }

    def is_generation(self, request: HttpRequest) -> bool:
        return request.method == "POST" and request.path in _GENERATIONS

    def handle(self, request: HttpRequest, exchange: Exchange) -> None:
        method = "GET" if request.method == "HEAD" else request.method
        route = self._routes.get((method, request.path))
        if route is None:
            is_known = any(path == request.path for _, path in self._routes)
            exchange.reply(405 if is_known else 404, b"", content_type=_PLAIN_TEXT)
        elif self._is_refused(request):
            exchange.reply(401, b"", content_type=_PLAIN_TEXT)
        else:
            self._answer(route, request, exchange)

    def while_loading(self, request: HttpRequest, exchange: Exchange) -> None:
        """It does not listen yet."""
        exchange.abort()

    def when_overloaded(self, request: HttpRequest, exchange: Exchange) -> None:
        self._refuse_any(request, exchange, overloaded())

    def when_dead(self, request: HttpRequest, exchange: Exchange) -> None:
        """The router lives; its shard does not."""
        if self.is_generation(request):
            self._metrics.failures["generation"] += 1
            self._refuse_any(request, exchange, shard_failed(self._engine.death_reason or "transport error"))
        elif request.method == "GET" and request.path in ("/", "/health", "/ping"):
            exchange.reply(_UNHEALTHY.status, _UNHEALTHY.body())
        else:
            self.handle(request, exchange)

    def _is_refused(self, request: HttpRequest) -> bool:
        key = self._launch.values["api_key"]
        if key is None or request.method != "POST" or request.path not in _GUARDED:
            return False
        given = request.headers.get("authorization", "").lower()
        return not hmac.compare_digest(given.encode(), f"bearer {key}".lower().encode())

    def _answer(self, route: Route, request: HttpRequest, exchange: Exchange) -> None:
        try:
            route(request, exchange)
        except Unreadable as error:
            exchange.reply(error.status, error.message.encode(), content_type=_PLAIN_TEXT)

    # ---------------------------------------------------------------- what it is

    def _health(self, request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, b"", content_type=_PLAIN_TEXT)

    def _info(self, request: HttpRequest, exchange: Exchange) -> None:
        told = ("max_concurrent_requests", "max_best_of", "max_stop_sequences", "max_input_tokens", "max_total_tokens",
                "validation_workers", "max_client_batch_size")  # fmt: skip
        body = {
            "model_id": self._launch.model,
            "model_sha": None,
            "model_pipeline_tag": "text-generation",
            **{name: self._launch.values[name] for name in told},
            "router": "text-generation-router",
            "version": VERSION,
            "sha": COMMIT,
            "docker_label": None,
        }
        exchange.reply(200, encode(body))

    def _models(self, request: HttpRequest, exchange: Exchange) -> None:
        model = self._launch.model
        card = {"id": model, "object": "model", "created": 0, "owned_by": model}
        exchange.reply(200, encode({"object": "list", "data": [card]}))

    def _expose(self, request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, self._metrics.text(), content_type="text/plain; charset=utf-8")

    def _tokenize(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read(request, GenerateBody, payload_limit=self._payload_limit)
        exchange.reply(200, encode(tokenized(body.inputs, self._launch.vocabulary, adds_special_tokens=True)))

    def _tokenize_chat(self, request: HttpRequest, exchange: Exchange) -> None:
        text = render_chat(read(request, ChatBody, payload_limit=self._payload_limit).messages)
        body = {
            "tokenize_response": tokenized(text, self._launch.vocabulary, adds_special_tokens=False),
            "templated_text": text,
        }
        exchange.reply(200, encode(body))

    # ---------------------------------------------------------------- generations

    def _compatible(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read(request, CompatBody, payload_limit=self._payload_limit)
        if body.parameters.return_full_text is None:
            body.parameters.return_full_text = True
        if body.stream:
            self._run_stream(body, exchange)
        else:
            self._run_whole(body, exchange, is_compatible=True)

    def _generate(self, request: HttpRequest, exchange: Exchange) -> None:
        self._run_whole(read(request, GenerateBody, payload_limit=self._payload_limit), exchange, is_compatible=False)

    def _generate_stream(self, request: HttpRequest, exchange: Exchange) -> None:
        self._run_stream(read(request, GenerateBody, payload_limit=self._payload_limit), exchange)

    def _run_stream(self, body: GenerateBody, exchange: Exchange) -> None:
        answer = NativeStream(exchange)
        answer.begin(len(body.inputs))
        self._metrics.num_requests += 1
        try:
            self._submit(self._valid(body, is_streamed=True), exchange, answer.on_token, answer.refuse)
        except Refusal as refusal:
            answer.refuse(self._counted(refusal))

    def _run_whole(self, body: GenerateBody, exchange: Exchange, *, is_compatible: bool) -> None:
        answer = NativeWhole(
            exchange, is_compatible=is_compatible, has_prefill_logprobs=self._limits.has_prefill_logprobs
        )  # fmt: skip
        self._metrics.num_requests += 1
        try:
            self._submit(self._valid(body, is_streamed=False), exchange, answer.on_token, answer.refuse)
        except Refusal as refusal:
            answer.refuse(self._counted(refusal))

    def _complete(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read(request, CompletionBody, payload_limit=self._payload_limit)
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        self._metrics.num_requests += 1 + len(prompts)  # an OpenAI request counts itself, and each of its prompts
        answer = CompletionAnswer(
            exchange, model=body.model or self._launch.model, num_prompts=len(prompts), is_streamed=body.stream
        )
        try:
            self._check_completion(body, prompts)
        except Refusal as refusal:
            exchange.reply(refusal.status, self._counted(refusal).body())  # before the stream: a status of its own
            return
        answer.begin(sum(map(len, prompts)))
        try:
            self._submit_prompts(body, prompts, exchange, answer)
        except Refusal as refusal:
            exchange.cancel_requests()
            answer.refuse(self._counted(refusal))

    def _check_completion(self, body: CompletionBody, prompts: list[str]) -> None:
        if body.suffix is not None:
            raise Refusal(
                "suffix not supported", "Suffix is not supported and can be achieved by preprocessing the prompt."
            )
        limit = int(str(self._launch.values["max_client_batch_size"]))
        if not prompts:
            raise Refusal("validation", "`inputs` cannot be empty")
        if len(prompts) > limit:
            problem = f"Number of prompts exceeds the maximum allowed batch size of {limit}"
            raise Refusal("batch size exceeded", problem)

    def _submit_prompts(
        self, body: CompletionBody, prompts: list[str], exchange: Exchange, answer: CompletionAnswer
    ) -> None:
        for index, prompt in enumerate(prompts):
            valid = validate(
                prompt,
                completion_parameters(body),
                self._limits,
                vocabulary=self._launch.vocabulary,
                is_streamed=body.stream,
                adds_special_tokens=True,
            )
            self._submit(valid, exchange, _at(index, answer), answer.refuse)

    def _chat(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read(request, ChatBody, payload_limit=self._payload_limit)
        self._metrics.num_requests += 2
        answer = ChatAnswer(
            exchange,
            model=body.model or "tgi",
            is_streamed=body.stream,
            has_usage=body.stream_options.include_usage,
            has_logprobs=bool(body.logprobs),
        )
        text = render_chat(body.messages)
        if body.tools:
            refusal = Refusal("tool_error", "tools are not simulated")
            exchange.reply(refusal.status, refusal.body())
            return
        answer.begin(len(text))
        try:
            valid = validate(
                text,
                chat_parameters(body),
                self._limits,
                vocabulary=self._launch.vocabulary,
                is_streamed=body.stream,
                adds_special_tokens=False,
            )
            self._submit(valid, exchange, answer.on_token, answer.refuse)
        except Refusal as refusal:
            answer.refuse(self._counted(refusal))

    def _valid(self, body: GenerateBody, *, is_streamed: bool) -> ValidRequest:
        return validate(
            body.inputs, body.parameters, self._limits, vocabulary=self._launch.vocabulary,
            is_streamed=is_streamed, adds_special_tokens=True,
        )  # fmt: skip

    def _submit(
        self,
        valid: ValidRequest,
        exchange: Exchange,
        on_token: Callable[[Generation], None],
        on_failed: Callable[[Refusal], None],
    ) -> None:
        """Raises Refusal where no permit is free: TGI does not let a request wait for one."""
        if valid.has_grammar:
            raise Refusal("validation", "the simulator has no response_format and no grammar")
        if self._engine.num_unfinished >= int(str(self._launch.values["max_concurrent_requests"])):
            raise overloaded()
        self._metrics.observe("tgi_request_input_length", len(valid.prompt_token_ids))
        self._metrics.observe("tgi_request_max_new_tokens", valid.max_new_tokens)
        self._num_drawn_seeds += 1
        generation = Generation(
            valid, self._engine, self._metrics, seed=self._num_drawn_seeds, on_token=on_token, on_failed=on_failed
        )
        generation.submit(exchange)

    def _counted(self, refusal: Refusal) -> Refusal:
        self._metrics.failures[refusal.error_type] += 1
        return refusal

    def _refuse_any(self, request: HttpRequest, exchange: Exchange, refusal: Refusal) -> None:
        """As this route would."""
        try:
            if request.path == "/generate_stream":
                stream = NativeStream(exchange)
                stream.begin(0)
                stream.refuse(refusal)
            elif request.path == "/v1/chat/completions":
                is_streamed = read(request, ChatBody, payload_limit=self._payload_limit).stream
                answer = ChatAnswer(
                    exchange, model="tgi", is_streamed=is_streamed, has_usage=False, has_logprobs=False
                )  # fmt: skip
                answer.begin(0)
                answer.refuse(refusal)
            else:
                exchange.reply(refusal.status, refusal.body())
        except Unreadable as error:
            exchange.reply(error.status, error.message.encode(), content_type=_PLAIN_TEXT)

    @property
    def _payload_limit(self) -> int:
        return int(str(self._launch.values["payload_limit"]))


def _at(index: int, answer: CompletionAnswer) -> Callable[[Generation], None]:
    return lambda generation: answer.on_token(index, generation)
