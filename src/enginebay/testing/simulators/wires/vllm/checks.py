"""What vLLM's server refuses, and in which words."""

from __future__ import annotations

from enginebay.testing.simulators.openai_body import ChatBody, CompletionBody, SamplingBody

_MAX_STOP_STRINGS = 4


def error_body(status: int, message: str, kind: str, param: str | None = None) -> object:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Refusal(Exception):
    """Leaves a route; the wire answers with it. Never leaves a simulator."""

    def __init__(
        self, status: int, message: str = "", kind: str = "", *, param: str | None = None, body: object = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body if body is not None else error_body(status, message, kind, param)


def check_body(body: SamplingBody, *, max_logprobs: int) -> None:
    """Raises Refusal."""
    _check_ranges(body)
    _check_stream(body)
    _check_logprobs(body, max_logprobs)
    _check_simulated(body)


def _check_ranges(body: SamplingBody) -> None:
    temperature, top_p = body.temperature, body.top_p
    if temperature is not None and not 0 <= temperature <= 2:
        raise _bad(f"temperature must be in [0, 2], got {temperature}.", "temperature")
    if top_p is not None and not 0 < top_p <= 1:
        raise _bad(f"top_p must be in (0, 1], got {top_p}.", "top_p")
    if body.top_k is not None and body.top_k < -1:
        raise _bad(f"top_k must be 0 (disable), or at least 1, got {body.top_k}.", "top_k")
    if body.min_p is not None and not 0 <= body.min_p <= 1:
        raise _bad(f"min_p must be in [0, 1], got {body.min_p}.", "min_p")
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(body, name)
        if value is not None and not -2 <= value <= 2:
            raise _bad(f"{name} must be in [-2, 2], got {value}.", name)
    if body.repetition_penalty is not None and body.repetition_penalty <= 0:
        raise _bad(
            f"repetition_penalty must be greater than zero, got {body.repetition_penalty}.", "repetition_penalty"
        )
    if body.max_tokens is not None and body.max_tokens < 1:
        raise _bad(f"max_tokens must be at least 1, got {body.max_tokens}.", "max_tokens")
    if body.min_tokens and body.max_tokens is not None and body.min_tokens > body.max_tokens:
        message = f"min_tokens must be less than or equal to max_tokens={body.max_tokens}, got {body.min_tokens}."
        raise _bad(message, "min_tokens")
    if len(body.stops) > _MAX_STOP_STRINGS:
        raise _bad(f"stop must have at most {_MAX_STOP_STRINGS} items, got {len(body.stops)}.", "stop")
    if body.n is not None and body.n < 1:
        raise _bad(f"n must be at least 1, got {body.n}.", "n")
    if body.min_tokens is not None and body.min_tokens < 0:
        raise _bad(f"min_tokens must be greater than or equal to 0, got {body.min_tokens}.", "min_tokens")
    if (body.n or 1) > 1 and temperature == 0:
        raise _bad(f"n must be 1 when using greedy sampling, got {body.n}.", "n")


def _check_stream(body: SamplingBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise Refusal(400, "Stream options can only be defined when `stream=True`.", "Bad Request")
    if body.prompt_logprobs is not None and body.stream:
        raise Refusal(400, "`prompt_logprobs` are not available when `stream=True`.", "Bad Request")


def _check_logprobs(body: SamplingBody, max_logprobs: int) -> None:
    num = body.logprobs if isinstance(body, CompletionBody) else None
    if isinstance(body, ChatBody):
        num = body.top_logprobs
        if num and not body.logprobs:
            raise Refusal(400, "when using `top_logprobs`, `logprobs` must be set to true.", "Bad Request")
        if body.tools == []:
            raise Refusal(400, "`tools` must not be an empty array.", "Bad Request")
    if num is not None and num > max_logprobs:
        message = f"Requested sample logprobs of {num}, which is greater than max allowed: {max_logprobs}"
        raise _bad(message, "logprobs")


def _check_simulated(body: SamplingBody) -> None:
    """What the real server does and this one does not is refused, never answered with something else."""
    if isinstance(body, CompletionBody) and body.echo:
        raise _not_simulated("echo")
    if body.structured_outputs is not None:
        raise _not_simulated("structured_outputs")
    if body.response_format is not None and body.response_format.get("type") != "text":
        raise _not_simulated("response_format")
    if isinstance(body, ChatBody) and body.tool_choice not in (None, "none", "auto"):
        raise _not_simulated("tool_choice")


def _bad(message: str, param: str) -> Refusal:
    return Refusal(400, message, "BadRequestError", param=param)


def _not_simulated(field: str) -> Refusal:
    return Refusal(501, f"the simulator has no {field}", "NotImplementedError", param=field)
