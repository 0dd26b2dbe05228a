"""The routes of llama-server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import msgspec

from enginebay.testing.simulators.chat_text import render_chat
from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.exchange import Exchange, HttpRequest
from enginebay.testing.simulators.openai_answer import Asked, encode_json
from enginebay.testing.simulators.request import SimulatedRequest, SimulatedSampling
from enginebay.testing.simulators.wire import Launch, WireSpec
from enginebay.testing.simulators.wires.llama_cpp.answers import (
    LlamaChatAnswer,
    NativeAnswer,
    answer_nothing,
)
from enginebay.testing.simulators.wires.llama_cpp.bodies import (
    DetokenizeBody,
    LlamaChatBody,
    NativeBody,
    Refusal,
    TemplateBody,
    TokenizeBody,
    filters_of,
    prompt_ids,
    sampling_of,
)
from enginebay.testing.simulators.wires.llama_cpp.flags import FLAGS, configure, num_slots
from enginebay.testing.simulators.wires.llama_cpp.metrics import LlamaCppMetrics

VERSION = "b11434"
_GENERATIONS = ("/completion", "/completions", "/v1/chat/completions", "/chat/completions")
_OPEN = ("/health", "/v1/health")
T = TypeVar("T", bound=msgspec.Struct)


class LlamaCppWire:
    def __init__(self, launch: Launch, engine: SimulatedEngine) -> None:
        self._launch, self._engine, self._values = launch, engine, launch.values
        keys = str(self._values["api_key"] or "").split(",")
        self._api_keys = {f"Bearer {key}" for key in keys if key}
        self._metrics = LlamaCppMetrics(engine)
        self._num_answers = 0
        self._routes: dict[tuple[str, str], Callable[[HttpRequest, Exchange], None]] = {
            ("GET", "/health"): lambda _, exchange: _reply(exchange, {"status": "ok"}),
            ("GET", "/v1/health"): lambda _, exchange: _reply(exchange, {"status": "ok"}),
            ("GET", "/v1/models"): self._models,
            ("GET", "/metrics"): self._publish,
            ("GET", "/props"): self._props,
            ("GET", "/slots"): self._slots,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("POST", "/apply-template"): self._apply_template,
            ("POST", "/completion"): self._complete,
            ("POST", "/completions"): self._complete,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/chat/completions"): self._chat,
        }

    # ---------------------------------------------------------------- the Wire protocol

    def is_generation(self, request: HttpRequest) -> bool:
        return request.path in _GENERATIONS

    def handle(self, request: HttpRequest, exchange: Exchange) -> None:
        route = self._routes.get((request.method, request.path))
        try:
            self._authenticate(request)
            if route is None:
                raise Refusal(404, "File Not Found", "not_found_error")
            route(request, exchange)
        except Refusal as refusal:
            exchange.reply(refusal.status, encode_json(refusal.body))

    def while_loading(self, request: HttpRequest, exchange: Exchange) -> None:
        """The port is open before the model is there, and no route answers anything else."""
        exchange.reply(503, encode_json(Refusal(503, "Loading model", "unavailable_error").body))

    def when_overloaded(self, request: HttpRequest, exchange: Exchange) -> None:
        """It never refuses for load: requests wait for a slot without bound."""
        self.handle(request, exchange)

    def when_dead(self, request: HttpRequest, exchange: Exchange) -> None:
        """Server and engine are one process."""
        exchange.abort()

    # ---------------------------------------------------------------- generations

    def _complete(self, request: HttpRequest, exchange: Exchange) -> None:
        body = _read(request, NativeBody)
        prompt = prompt_ids(body, self._launch.vocabulary)
        if not prompt:
            answer_nothing(exchange, body, model=self._launch.model)
            return
        sampling = sampling_of(body, num_predict=self._num_to_predict(len(prompt), body.num_predict))
        answer = NativeAnswer(exchange, body, model=self._launch.model)
        exchange.submit(SimulatedRequest(prompt, sampling, listener=answer))

    def _chat(self, request: HttpRequest, exchange: Exchange) -> None:
        body = _read(request, LlamaChatBody)
        prompt = self._launch.vocabulary.encode(render_chat(body.messages), adds_special_tokens=True)
        wanted = next((value for value in (body.max_completion_tokens, body.max_tokens) if value is not None), -1)
        options, is_streamed = body.stream_options, bool(body.stream)
        self._num_answers += 1
        asked = Asked(
            form="chat",
            model=body.model or self._launch.model,
            id=f"chatcmpl-{self._num_answers:032x}",
            is_streamed=is_streamed,
            include_usage=not is_streamed or bool(options is not None and options.include_usage),
            num_logprobs=(body.top_logprobs or 0) or None if body.logprobs else None,
        )
        sampling = SimulatedSampling(
            max_tokens=self._num_to_predict(len(prompt), wanted),
            temperature=0.8 if body.temperature is None else body.temperature,
            filters=filters_of(body),
            seed=None if body.seed in (None, -1) else body.seed,
            stop=body.stops,
            ignore_eos=bool(body.ignore_eos),
        )
        LlamaChatAnswer(exchange, asked, is_timed=body.timings_per_token).submit(prompt, sampling)

    def _num_to_predict(self, num_prompt_tokens: int, wanted: int) -> int:
        """A prompt must fit into a slot. The output ends with the slot's context, without a word. 0 yields a token."""
        limit = self._launch.profile.max_model_len
        if num_prompt_tokens >= limit:
            problem = f"request ({num_prompt_tokens} tokens) exceeds the available context size ({limit} tokens)"
            sizes = {"n_prompt_tokens": num_prompt_tokens, "n_ctx": limit}
            raise Refusal(400, f"{problem}, try increasing it", "exceed_context_size_error", **sizes)
        room = limit - num_prompt_tokens
        return room if wanted < 0 else min(max(wanted, 1), room)

    # ---------------------------------------------------------------- everything else

    def _authenticate(self, request: HttpRequest) -> None:
        if not self._api_keys or request.path in _OPEN:
            return
        given = request.headers.get("authorization") or f"Bearer {request.headers.get('x-api-key', '')}"
        if given not in self._api_keys:
            raise Refusal(401, "Invalid API Key", "authentication_error")

    def _models(self, request: HttpRequest, exchange: Exchange) -> None:
        card = {"id": self._launch.model, "aliases": [], "object": "model", "created": 0, "owned_by": "llamacpp"}
        _reply(exchange, {"object": "list", "data": [card]})

    def _publish(self, request: HttpRequest, exchange: Exchange) -> None:
        if not self._values["metrics"]:
            problem = "This server does not support metrics endpoint. Start it with `--metrics`"
            raise Refusal(501, problem, "not_supported_error")
        exchange.reply(200, self._metrics.text().encode(), content_type="text/plain; version=0.0.4")

    def _props(self, request: HttpRequest, exchange: Exchange) -> None:
        _reply(
            exchange,
            {
                "default_generation_settings": {"params": {}, "n_ctx": self._launch.profile.max_model_len},
                "total_slots": num_slots(self._values),
                "model_alias": self._launch.model,
                "model_path": cast("str | None", self._values["model"]) or "",
                "model_ftype": "simulated",
                "modalities": {"vision": False, "audio": False},
                "chat_template": "",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "build_info": f"{VERSION}-simulated",
            },
        )

    def _slots(self, request: HttpRequest, exchange: Exchange) -> None:
        if not self._values["slots"]:
            raise Refusal(501, "This server does not support slots endpoint.", "not_supported_error")
        count, length, num_running = (
            num_slots(self._values),
            self._launch.profile.max_model_len,
            self._engine.num_running,
        )
        slots = [
            {"id": index, "n_ctx": length, "speculative": False, "is_processing": index < num_running}
            for index in range(count)
        ]
        _reply(exchange, slots)

    def _tokenize(self, request: HttpRequest, exchange: Exchange) -> None:
        body = _read(request, TokenizeBody)
        ids = self._launch.vocabulary.encode(body.content, adds_special_tokens=body.add_special)
        _reply(exchange, {"tokens": ids})

    def _detokenize(self, request: HttpRequest, exchange: Exchange) -> None:
        _reply(exchange, {"content": self._launch.vocabulary.decode(_read(request, DetokenizeBody).tokens)})

    def _apply_template(self, request: HttpRequest, exchange: Exchange) -> None:
        _reply(exchange, {"prompt": render_chat(_read(request, TemplateBody).messages)})


def _read(request: HttpRequest, form: type[T]) -> T:
    try:
        return msgspec.json.decode(request.body, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _demand_json(request.body)
        raise Refusal(400, str(error), "invalid_request_error") from error


def _demand_json(body: bytes) -> None:
    """What is no JSON at all is an error of the server, whatever it was meant for."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(500, f"parse error: {error}", "server_error") from error


def _reply(exchange: Exchange, body: object) -> None:
    exchange.reply(200, encode_json(body))


WIRE = WireSpec(
    kind="llama_cpp",
    version=VERSION,
    flags=FLAGS,
    configure=configure,
    create=LlamaCppWire,
    listens_while_loading=True,
    usage_exit_code=1,
)
