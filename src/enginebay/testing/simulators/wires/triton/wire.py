"""The routes of Triton: health, and generate and generate_stream of the models in TensorRT-LLM's repository."""

from __future__ import annotations

import re
from http import HTTPStatus

import msgspec
from msgspec import Struct

from enginebay.testing.simulators.draw import Filters
from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.exchange import UNREADABLE, Exchange, HttpRequest
from enginebay.testing.simulators.openai_answer import Json, encode_json
from enginebay.testing.simulators.request import SimulatedRequest, SimulatedSampling, StepToken
from enginebay.testing.simulators.wire import Launch, WireSpec
from enginebay.testing.simulators.wires.triton.flags import FLAGS, configure
from enginebay.testing.simulators.wires.triton.metrics import metrics_text

VERSION = "25.12"
FIXED_SEED = 0
_GENERATE = re.compile(r"/v2/models/([^/]+)/(generate|generate_stream)")
_MODELS = ("ensemble", "tensorrt_llm_bls")


class GenerateBody(Struct, kw_only=True):
    """Inputs of the ensemble. Further keys become parameters that nobody reads, as in the real one."""

    text_input: str
    max_tokens: int
    id: str | None = None
    stop_words: str | list[str] | None = None
    bad_words: str | list[str] | None = None
    exclude_input_in_output: bool = False
    temperature: float | None = None
    top_k: int = 0
    top_p: float | None = None
    min_tokens: int = 0
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    return_num_input_tokens: bool = False
    return_num_output_tokens: bool = False
    stream: bool = False


class TritonWire:
    def __init__(self, launch: Launch, engine: SimulatedEngine) -> None:
        self._launch, self._engine = launch, engine

    def is_generation(self, request: HttpRequest) -> bool:
        return _GENERATE.fullmatch(request.path) is not None

    def handle(self, request: HttpRequest, exchange: Exchange) -> None:
        match request.method, request.path:
            case "GET", "/v2/health/ready" | "/v2/health/live":
                exchange.reply(200, b"")
            case "GET", "/metrics":
                text = metrics_text(self._engine)
                exchange.reply(200, text.encode(), content_type="text/plain; charset=utf-8")
            case "POST", path if (found := _GENERATE.fullmatch(path)) is not None:
                self._generate(request, exchange, model=found.group(1), is_streamed=found.group(2) != "generate")
            case _:
                _refuse(exchange, HTTPStatus.NOT_FOUND, "Not Found")

    def while_loading(self, request: HttpRequest, exchange: Exchange) -> None:
        """It lives, and is not ready: a 400."""
        if request.path == "/v2/health/live":
            exchange.reply(200, b"")
        elif request.path == "/v2/health/ready":
            exchange.reply(400, b"")
        else:
            _refuse(exchange, HTTPStatus.SERVICE_UNAVAILABLE, "server is not ready")

    def when_overloaded(self, request: HttpRequest, exchange: Exchange) -> None:
        _refuse(exchange, HTTPStatus.SERVICE_UNAVAILABLE, "Exceeds maximum queue size")

    def when_dead(self, request: HttpRequest, exchange: Exchange) -> None:
        if request.path == "/v2/health/live":
            exchange.reply(400, b"")
        else:
            self.while_loading(request, exchange)

    # ---------------------------------------------------------------- generations

    def _generate(self, request: HttpRequest, exchange: Exchange, *, model: str, is_streamed: bool) -> None:
        if model not in _MODELS:
            _refuse(exchange, HTTPStatus.NOT_FOUND, f"Request for unknown model: '{model}' is not found")
            return
        try:
            body = msgspec.json.decode(request.body, type=GenerateBody)
        except UNREADABLE as error:
            _refuse(exchange, HTTPStatus.BAD_REQUEST, str(error))
            return
        prompt = self._launch.vocabulary.encode(body.text_input, adds_special_tokens=True)
        limit = self._launch.profile.max_model_len
        if body.max_tokens < 1 or len(prompt) + body.max_tokens > limit:
            sums = f"Prompt length ({len(prompt)}) + max_tokens ({body.max_tokens})"
            problem = f"{sums} exceeds maximum sequence length ({limit})"
            _refuse(exchange, HTTPStatus.BAD_REQUEST, problem)
            return
        answer = _TritonAnswer(exchange, body, model=model, is_streamed=is_streamed)
        exchange.submit(SimulatedRequest(prompt, _sampling(body), listener=answer))


class _TritonAnswer:
    """No end mark, no finish reason, no usage; the counts of each answer where they were asked for."""

    def __init__(self, exchange: Exchange, body: GenerateBody, *, model: str, is_streamed: bool) -> None:
        self._exchange, self._body, self._model, self._is_streamed = exchange, body, model, is_streamed
        self._text: list[str] = []
        self._num_tokens = 0
        self._has_begun = False

    def on_token(self, request: SimulatedRequest, token: StepToken) -> None:
        self._text.append(token.text)
        self._num_tokens += 1
        is_last = token.finish_reason is not None
        if self._is_streamed:
            self._begin()
            self._exchange.send(b"data: " + encode_json(self._answer(request, is_last=is_last)) + b"\n\n")
            if is_last:
                self._exchange.finish()
        elif is_last:
            self._exchange.reply(200, encode_json(self._answer(request, is_last=True)))

    def on_failure(self, request: SimulatedRequest, reason: str) -> None:
        if not self._has_begun:
            _refuse(self._exchange, HTTPStatus.INTERNAL_SERVER_ERROR, reason)
            return
        self._exchange.send(b"data: " + encode_json({"error": reason}) + b"\n\n")
        self._exchange.finish()

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._exchange.begin_stream()

    def _answer(self, request: SimulatedRequest, *, is_last: bool) -> Json:
        """What has come since the last one."""
        answer: Json = {"model_name": self._model, "model_version": "1", "text_output": "".join(self._text)}
        if self._body.return_num_input_tokens:
            answer["num_input_tokens"] = request.num_prompt_tokens
        if self._body.return_num_output_tokens:
            answer["num_output_tokens"] = self._num_tokens + (self._exchange.num_wrong_usage if is_last else 0)
        self._text, self._num_tokens = [], 0
        return answer


def _sampling(body: GenerateBody) -> SimulatedSampling:
    stop = (body.stop_words,) if isinstance(body.stop_words, str) else tuple(body.stop_words or ())
    return SimulatedSampling(
        max_tokens=body.max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        filters=Filters(top_k=body.top_k, top_p=1.0 if body.top_p is None else body.top_p),
        seed=FIXED_SEED if body.seed is None else body.seed,
        stop=tuple(word for word in stop if word),
        min_tokens=body.min_tokens,
    )


def _refuse(exchange: Exchange, status: HTTPStatus, message: str) -> None:
    exchange.reply(status, encode_json({"error": message}))


WIRE = WireSpec(
    kind="triton",
    version=VERSION,
    flags=FLAGS,
    configure=configure,
    create=TritonWire,
    listens_while_loading=True,
    usage_exit_code=1,
)
