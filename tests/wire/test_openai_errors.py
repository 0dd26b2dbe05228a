"""The error table, forwards and back."""

import json

import pytest

from enginebay import errors
from enginebay.wire.openai_errors import TABLE, error_body, error_from_response, error_headers, wire_form

SAMPLES: list[errors.EngineBayError] = [
    errors.InvalidRequest("top_p must be at most 1", field="top_p"),
    errors.BodyTooLarge(limit_bytes=1048576),
    errors.UnsupportedContentType("the content-type is text/plain"),
    errors.UnknownModel("nope", available=["tiny"]),
    errors.ContextTooLong(num_tokens=9001, limit=8192),
    errors.ContextTooLong(num_tokens=9001, limit=8192, max_tokens=16, field="messages"),
    errors.UnsupportedFeature(field="tools", backend="there"),
    errors.DeadlineExceeded("too late"),
    errors.BackendUnavailable("cannot reach it", backend="there"),
    errors.ShuttingDown("the server ends", backend="there"),
    errors.BackendOverloaded("queue is full", backend="there", retry_after_s=2.5),
    errors.BackendTimeout("no token within 5 s", backend="there"),
    errors.EngineDied("killed", backend="there"),
    errors.EngineStepFailed("out of memory", backend="there"),
]


def test_every_leaf_of_the_request_and_backend_trees_stands_in_the_table() -> None:
    def leaves(cls: type) -> set[type]:
        return {cls}.union(*(leaves(child) for child in cls.__subclasses__() if child.__module__ == errors.__name__))

    assert leaves(errors.RequestError) | leaves(errors.BackendError) <= set(TABLE)
    assert len({form.code for form in TABLE.values()}) == len(TABLE)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_as_itself(error: errors.EngineBayError) -> None:
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    back = error_from_response(wire_form(error).status, error_body(error), backend="there", headers=headers)
    assert type(back) is type(error)
    assert getattr(back, "field", None) == getattr(error, "field", None)
    assert getattr(back, "limit", None) == getattr(error, "limit", None)
    assert getattr(back, "num_tokens", None) == getattr(error, "num_tokens", None)


def test_overload_says_when_to_come_back() -> None:
    error = errors.BackendOverloaded("full", retry_after_s=2.1)
    assert error_headers(error) == [(b"retry-after", b"3")]
    assert error_headers(errors.BackendTimeout("slow")) == []


def test_a_dead_engine_asks_clients_for_no_new_backend_and_shows_them_no_log() -> None:
    died = errors.EngineDied(f"it was killed; {errors.NEW_BACKEND_NEEDED}\nlast lines of the engine:\n  a secret path")
    message = json.loads(error_body(died))["error"]["message"]
    assert message == "it was killed; the server must be restarted"


def test_a_bug_of_ours_tells_nothing_of_itself() -> None:
    body = json.loads(error_body(ValueError("the prompt was: secret")))
    assert "secret" not in body["error"]["message"]
    assert body["error"]["code"] == "internal_error"


def vllm(message: str, kind: str, code: int, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected"),
    [
        (404, vllm("The model `x` does not exist.", "NotFoundError", 404, "model"), {}, errors.UnknownModel),
        (404, b"<html>", {}, errors.UpstreamError),
        (400, vllm("temperature must be non-negative", "BadRequestError", 400), {}, errors.InvalidRequest),
        (
            400,
            vllm(
                "This model's maximum context length is 64 tokens. However, you requested 80 tokens (70 in the "
                "messages, 10 in the completion).",
                "BadRequestError",
                400,
            ),
            {},
            errors.ContextTooLong,
        ),
        (503, vllm("too full", "Service Unavailable", 503), {}, errors.BackendOverloaded),
        (503, vllm("engine is restarting", "ServiceUnavailableError", 503), {}, errors.BackendUnavailable),
        (503, b"", {"retry-after": "4"}, errors.BackendOverloaded),
        (429, b'{"error": "Model is overloaded", "error_type": "overloaded"}', {}, errors.BackendOverloaded),
        (422, b'{"error": "`inputs` must have less", "error_type": "validation"}', {}, errors.InvalidRequest),
        (422, json.dumps({"detail": [{"loc": ["body"], "msg": "missing"}]}).encode(), {}, errors.InvalidRequest),
        (500, vllm("boom", "InternalServerError", 500), {}, errors.UpstreamError),
        (401, b'{"error": "Unauthorized"}', {}, errors.UpstreamError),
        (504, b"gateway timeout", {}, errors.BackendTimeout),
        (502, b"bad gateway", {}, errors.BackendUnavailable),
        (500, b"\xff\xfe", {}, errors.UpstreamError),
        (500, b"[" * 100000, {}, errors.UpstreamError),
    ],
)  # fmt: skip
def test_a_foreign_servers_error_becomes_the_closest_class(
    status: int, body: bytes, headers: dict[str, str], expected: type
) -> None:
    assert type(error_from_response(status, body, backend="there", headers=headers)) is expected


def test_retry_after_of_a_foreign_server_is_kept() -> None:
    error = error_from_response(429, b"", backend="there", headers={"retry-after": "7"})
    assert isinstance(error, errors.BackendOverloaded)
    assert error.retry_after_s == 7.0


def test_a_store_that_is_away_behind_another_gateway_is_a_backend_that_is_away() -> None:
    error = errors.StoreUnavailable("the database cannot be used")
    assert wire_form(error).status == 503
    back = error_from_response(503, error_body(error), backend="there")
    assert type(back) is errors.BackendUnavailable
