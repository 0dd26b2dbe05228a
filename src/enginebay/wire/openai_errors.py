"""One table between our errors and the OpenAI error body, read in both directions.

Body: `{"error": {"message": str, "type": str, "param": str | null, "code": str}}`. `code` is ours and says exactly
which class it was; a foreign server's status and message are mapped as closely as they allow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from enginebay import errors
from enginebay.wire.deadline_header import DEADLINE_HEADER

INVALID = "invalid_request_error"
SERVER = "server_error"


@dataclass(frozen=True, slots=True)
class WireForm:
    status: int
    type: str
    code: str


# The most specific class of an error's ancestry that stands here decides.
TABLE: Mapping[type[errors.EngineBayError], WireForm] = {
    errors.RequestError: WireForm(400, INVALID, "bad_request"),
    errors.InvalidRequest: WireForm(400, INVALID, "invalid_request"),
    errors.BodyTooLarge: WireForm(413, INVALID, "body_too_large"),
    errors.UnsupportedContentType: WireForm(415, INVALID, "unsupported_content_type"),
    errors.UnknownModel: WireForm(404, INVALID, "model_not_found"),
    errors.ContextTooLong: WireForm(400, INVALID, "context_length_exceeded"),
    errors.UnsupportedFeature: WireForm(400, INVALID, "unsupported_feature"),
    errors.DeadlineExceeded: WireForm(408, "timeout_error", "deadline_exceeded"),
    errors.AuthenticationFailed: WireForm(401, "authentication_error", "invalid_api_key"),
    errors.PermissionDenied: WireForm(403, "permission_error", "permission_denied"),
    errors.RateLimited: WireForm(429, "rate_limit_error", "rate_limit_exceeded"),
    errors.BudgetExceeded: WireForm(429, "insufficient_quota", "insufficient_quota"),
    errors.BackendError: WireForm(500, SERVER, "backend_error"),
    errors.NotStarted: WireForm(503, "service_unavailable_error", "not_ready"),
    errors.StartFailed: WireForm(503, "service_unavailable_error", "start_failed"),
    errors.BackendUnavailable: WireForm(502, SERVER, "backend_unavailable"),
    errors.ShuttingDown: WireForm(503, "service_unavailable_error", "shutting_down"),
    errors.BackendOverloaded: WireForm(503, "overloaded_error", "overloaded"),
    errors.BackendTimeout: WireForm(504, "timeout_error", "backend_timeout"),
    errors.EngineDied: WireForm(502, SERVER, "engine_died"),
    errors.EngineStepFailed: WireForm(500, SERVER, "engine_step_failed"),
    errors.UpstreamError: WireForm(502, SERVER, "upstream_error"),
    errors.StoreUnavailable: WireForm(503, "service_unavailable_error", "store_unavailable"),
    errors.EngineBayError: WireForm(500, SERVER, "internal_error"),
}
_ABOUT_OUR_CLIENTS = (
    errors.AuthenticationFailed,
    errors.PermissionDenied,
    errors.RateLimited,
    errors.BudgetExceeded,
)
"""Said of a client of ours. From a server behind us the same codes speak of our own key, which is no client's fault."""
CLASS_OF_CODE = {form.code: cls for cls, form in TABLE.items() if cls not in _ABOUT_OUR_CLIENTS}
DEFAULT_RETRY_AFTER_S = 1.0


_WIRE_NAMES = {"deadline_at": DEADLINE_HEADER}
_OWN_NAMES = {wire_name: own for own, wire_name in _WIRE_NAMES.items()}
"""Of what has another name here than in a request."""


class ErrorDetail(msgspec.Struct, kw_only=True):
    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class ErrorBody(msgspec.Struct):
    error: ErrorDetail


def wire_form(error: BaseException) -> WireForm:
    for cls in type(error).__mro__:
        if cls in TABLE:
            return TABLE[cls]
    return TABLE[errors.EngineBayError]


def error_body(error: BaseException) -> bytes:
    """JSON. An error outside our tree is a bug of ours: its text stays in the log."""
    form = wire_form(error)
    detail = ErrorDetail(
        message=public_message(error),
        type=form.type,
        param=_WIRE_NAMES.get(error.field or "", error.field) if isinstance(error, errors.RequestError) else None,
        code=form.code,
    )
    return msgspec.json.encode(ErrorBody(detail))


def public_message(error: BaseException) -> str:
    if isinstance(error, errors.EngineBayError):
        without_log = str(error).split("\nlast lines of the engine:", 1)[0]  # that is not for clients
        return without_log.replace(errors.NEW_BACKEND_NEEDED, "the server must be restarted")
    return "internal error; see the server's log"


def error_headers(error: BaseException) -> list[tuple[bytes, bytes]]:
    """`retry-after` in whole seconds, rounded up, for overload and limits; how to authenticate for a 401.

    For a spent budget also `x-should-retry: false`, which OpenAI's clients heed: seconds later it is spent still.
    """
    if isinstance(error, errors.AuthenticationFailed):
        return [(b"www-authenticate", b"Bearer")]
    if isinstance(error, errors.BudgetExceeded):
        when = [] if error.retry_after_s is None else [_retry_after(error.retry_after_s)]
        return [(b"x-should-retry", b"false"), *when]
    if not isinstance(error, errors.BackendOverloaded | errors.RateLimited):
        return []
    seconds = error.retry_after_s if error.retry_after_s is not None else DEFAULT_RETRY_AFTER_S
    return [_retry_after(seconds)]


def _retry_after(seconds: float) -> tuple[bytes, bytes]:
    return b"retry-after", b"%d" % max(1, math.ceil(seconds))


# ---------------------------------------------------------------- from a response back to a class


def error_from_response(
    status: int, body: bytes, *, backend: str, headers: Mapping[str, str] | None = None
) -> errors.EngineBayError:
    """The typed error that this answer stands for. Never raises, whatever the body is. headers: lower-case names."""
    detail = read_error(body)
    headers = headers or {}
    known = CLASS_OF_CODE.get(str(detail.code)) if detail is not None else None
    if known is None:
        known = _class_of_status(status, detail, headers)
    message = detail.message if detail is not None else _without_json(status, body)
    return _build(known, message, detail=detail, status=status, backend=backend, headers=headers)


def read_error(body: bytes) -> ErrorDetail | None:
    """The error object of an OpenAI, vLLM, TGI, llama.cpp or FastAPI body; None if it is none of these."""
    try:
        value = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found = value.get("error", value.get("detail", value))
    if isinstance(found, str):
        kind = value.get("error_type")
        return ErrorDetail(message=found, type=kind if isinstance(kind, str) else None)
    try:
        return msgspec.convert(found, ErrorDetail)
    except msgspec.ValidationError:
        return ErrorDetail(message=msgspec.json.encode(found).decode()[:500])


def _class_of_status(
    status: int, detail: ErrorDetail | None, headers: Mapping[str, str]
) -> type[errors.EngineBayError]:
    message = detail.message.lower() if detail is not None else ""
    if status in (400, 422):
        is_about_length = "context length" in message or "maximum context" in message or "context of this" in message
        return errors.ContextTooLong if is_about_length else errors.InvalidRequest
    if status == 404:
        return errors.UnknownModel if "model" in message else errors.UpstreamError
    if status == 503 and not _speaks_of_load(message, detail, headers):
        return errors.BackendUnavailable
    return _STATUS_CLASSES.get(status, errors.UpstreamError)


_STATUS_CLASSES: Mapping[int, type[errors.EngineBayError]] = {
    408: errors.BackendTimeout,
    413: errors.BodyTooLarge,
    429: errors.BackendOverloaded,
    502: errors.BackendUnavailable,
    503: errors.BackendOverloaded,
    504: errors.BackendTimeout,
}


def _speaks_of_load(message: str, detail: ErrorDetail | None, headers: Mapping[str, str]) -> bool:
    is_vllm_admission = detail is not None and detail.type == "Service Unavailable"
    words = ("overload", "queue", "busy", "too many", "capacity")
    return "retry-after" in headers or is_vllm_admission or any(word in message for word in words)


def _build(
    cls: type[errors.EngineBayError],
    message: str,
    *,
    detail: ErrorDetail | None,
    status: int,
    backend: str,
    headers: Mapping[str, str],
) -> errors.EngineBayError:
    param = detail.param if detail is not None else None
    param = _OWN_NAMES.get(param or "", param)
    if cls is errors.BackendOverloaded:
        return errors.BackendOverloaded(message, backend=backend, retry_after_s=_retry_after_s(headers))
    if cls is errors.UpstreamError or cls is errors.BackendError or cls is errors.EngineBayError:
        return errors.UpstreamError(f"{message} (HTTP {status})", backend=backend, status=status)
    if cls in (errors.NotStarted, errors.StartFailed, errors.StoreUnavailable):
        return errors.BackendUnavailable(message, backend=backend)
    if issubclass(cls, errors.BackendError):
        return cls(message, backend=backend)
    if cls is errors.ContextTooLong and (sizes := _context_sizes(message)) is not None:
        limit, num_tokens, max_tokens = sizes
        return errors.ContextTooLong(num_tokens=num_tokens, limit=limit, max_tokens=max_tokens, field=param or "prompt")
    if cls is errors.UnknownModel and (name := _MODEL_NAME.search(message)) is not None:
        return errors.UnknownModel(name.group(1), available=())
    if cls is errors.UnsupportedFeature and param is not None:
        return errors.UnsupportedFeature(field=param, backend=backend)
    if cls is errors.BodyTooLarge and (size := _BYTES.search(message)) is not None:
        return errors.BodyTooLarge(limit_bytes=int(size.group(1)))
    if cls is errors.DeadlineExceeded or cls is errors.UnsupportedContentType:
        return cls(message, field=param)
    return errors.InvalidRequest(message, field=param)


_MODEL_NAME = re.compile(r"model\W+[`'\"]([^`'\"]+)[`'\"]", re.IGNORECASE)
_BYTES = re.compile(r"(\d+) bytes")
_LIMIT = re.compile(r"(?:context length is|context of this model is|maximum context length of)\D{0,20}(\d+)")
_OUTPUT = re.compile(r"(\d+) (?:output tokens|in the completion)")
_PROMPT = re.compile(
    r"(?:(\d+) prompt tokens|(\d+) in the messages|(\d+) input tokens|resulted in (\d+)|requested (\d+) tokens)"
)


def _context_sizes(message: str) -> tuple[int, int, int | None] | None:
    """(limit, prompt tokens, output tokens) out of our own and vLLM's wordings."""
    limit, asked, output = _LIMIT.search(message), _PROMPT.search(message), _OUTPUT.search(message)
    if limit is None or asked is None:
        return None
    num_tokens = next(int(group) for group in asked.groups() if group is not None)
    return int(limit.group(1)), num_tokens, int(output.group(1)) if output is not None else None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """None also for the form with a date, which our servers never send."""
    try:
        return max(0.0, float(headers.get("retry-after", "")))
    except ValueError:
        return None


def _without_json(status: int, body: bytes) -> str:
    text = body[:500].decode("utf-8", "replace").strip()
    return text or f"HTTP {status} with an empty body"
