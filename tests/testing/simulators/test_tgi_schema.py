"""The simulated TGI against TGI's own OpenAPI document: every answer and every error.

Where the real engine departs from its document, so does the simulator: a test at the end says where.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from enginebay.clock import MonotonicClock
from enginebay.testing.simulators import Fault, Simulator
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpResponse
from enginebay.wire.sse import SseParser

DOCUMENT = Path(__file__).parents[2] / "data" / "contracts" / "tgi-openapi.json"
MESSAGES = [{"role": "user", "content": "the quick brown fox"}]
GREEDY = {"max_new_tokens": 6, "details": True}


def as_json_schema(node: Any) -> Any:
    """OpenAPI 3.0 says `nullable` where JSON Schema has a type of its own, and `default: "null"` for null."""
    if isinstance(node, list):
        return [as_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {name: as_json_schema(value) for name, value in node.items() if name not in ("nullable", "discriminator")}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


@cache
def schemas() -> Mapping[str, Any]:
    return as_json_schema(json.loads(DOCUMENT.read_text()))["components"]["schemas"]


def check(name: str, instance: object) -> None:
    """Against one schema of the document; fields that it does not know are an error too."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas()}}
    Draft202012Validator(schema).validate(instance)


def known_fields(name: str) -> set[str]:
    return set(schemas()[name]["properties"])


def events_of(body: bytes) -> Iterator[Any]:
    for event in SseParser().feed(body):
        yield "[DONE]" if event.data == b"[DONE]" else json.loads(event.data)


def ask(path: str, body: object = None, *flags: str, fault: Fault | None = None, **headers: str) -> HttpResponse:
    async def main() -> HttpResponse:
        nonlocal headers
        async with Simulator("tgi", ["--model-id", "m", "--enable-prefill-logprobs", *flags]) as simulator:
            if fault is not None:
                simulator.faults.inject(fault)
            http = HttpClient(simulator.url, clock=MonotonicClock())
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                if body is None:
                    return await http.request("GET", path)
                return await http.request(
                    "POST", path, body=data, headers={"content-type": "application/json", **headers}
                )
            finally:
                await http.aclose()

    return asyncio.run(main())


def test_the_validator_finds_what_is_wrong() -> None:
    with pytest.raises(ValidationError):
        check("Info", {"model_id": "m"})
    with pytest.raises(ValidationError):
        check("FinishReason", "stop")


# ---------------------------------------------------------------- native routes


@pytest.mark.parametrize("more", [{}, {"top_n_tokens": 3}, {"decoder_input_details": True}, {"details": False}])
def test_generate_answers_as_documented(more: dict[str, object]) -> None:
    answer = json.loads(ask("/generate", {"inputs": "the", "parameters": {**GREEDY, **more}}).body)
    check("GenerateResponse", answer)
    assert set(answer) <= known_fields("GenerateResponse")
    if "details" in answer:
        assert set(answer["details"]) <= known_fields("Details")
        assert ("top_tokens" in answer["details"]) == ("top_n_tokens" in more)
        assert bool(answer["details"]["prefill"]) == ("decoder_input_details" in more)


@pytest.mark.parametrize("more", [{}, {"top_n_tokens": 3}, {"details": False}, {"max_new_tokens": 600}])
def test_generate_stream_sends_documented_events(more: dict[str, object]) -> None:
    response = ask("/generate_stream", {"inputs": "the", "parameters": {**GREEDY, **more}})
    assert response.headers["content-type"].startswith("text/event-stream")
    found = list(events_of(response.body))
    for index, event in enumerate(found, 1):
        check("StreamResponse", event)
        assert set(event) <= known_fields("StreamResponse")
        assert event["index"] == index
        assert ("top_tokens" in event) == ("top_n_tokens" in more)
        assert (event["generated_text"] is not None) == (index == len(found))
    assert (found[-1]["details"] is not None) == (more.get("details") is not False)


def test_the_compatible_route_wraps_the_answer_in_a_list_and_streams_on_demand() -> None:
    [answer] = json.loads(ask("/", {"inputs": "the", "parameters": GREEDY}).body)
    check("GenerateResponse", answer)
    assert answer["generated_text"].startswith("the")  # return_full_text is its default here
    streamed = list(events_of(ask("/", {"inputs": "the", "parameters": GREEDY, "stream": True}).body))
    for event in streamed:
        check("StreamResponse", event)


def test_whole_generations_have_tgis_headers_and_streams_have_no_times() -> None:
    times = {"compute", "total", "validation", "queue", "inference"}
    counts = {"x-compute-type", "x-compute-characters", "x-time-per-token", "x-prompt-tokens", "x-generated-tokens"}
    whole = ask("/generate", {"inputs": "the", "parameters": GREEDY})
    assert counts | {f"x-{name}-time" for name in times} <= set(whole.headers)
    assert (whole.headers["x-prompt-tokens"], whole.headers["x-generated-tokens"]) == ("2", "6")
    streamed = ask("/generate_stream", {"inputs": "the", "parameters": GREEDY})
    assert {"x-compute-type", "x-compute-characters"} <= set(streamed.headers)
    assert "x-total-time" not in streamed.headers


@pytest.mark.parametrize(
    ("path", "schema"),
    [("/info", "Info"), ("/tokenize", "TokenizeResponse"), ("/chat_tokenize", "ChatTokenizeResponse")],
)
def test_what_is_no_generation_answers_as_documented(path: str, schema: str) -> None:
    bodies = {"/tokenize": {"inputs": "café 你好"}, "/chat_tokenize": {"messages": MESSAGES}}
    check(schema, json.loads(ask(path, bodies.get(path)).body))


def test_tokens_are_the_characters_that_they_stand_for() -> None:
    text = "the café 你好 x"
    bos, *tokens = json.loads(ask("/tokenize", {"inputs": text}).body)
    assert bos == {"id": 1, "text": "", "start": 0, "stop": 0}
    assert all(text[token["start"] : token["stop"]] == token["text"] for token in tokens)
    assert tokens[-1]["stop"] == len(text)


def test_the_model_list_holds_documented_models() -> None:
    answer = json.loads(ask("/v1/models").body)
    assert answer["object"] == "list"
    for model in answer["data"]:
        check("ModelInfo", model)


def test_health_is_an_empty_200() -> None:
    for path in ("/health", "/ping", "/"):
        response = ask(path)
        assert (response.status, response.body) == (200, b"")


# ---------------------------------------------------------------- OpenAI routes


@pytest.mark.parametrize("more", [{}, {"logprobs": True, "top_logprobs": 2}, {"temperature": 0}, {"max_tokens": 600}])
def test_chats_answer_as_documented(more: dict[str, object]) -> None:
    asked = {"messages": MESSAGES, "max_tokens": 6, **more}
    answer = json.loads(ask("/v1/chat/completions", asked).body)
    check("ChatCompletion", answer)
    *chunks, done = events_of(
        ask("/v1/chat/completions", {**asked, "stream": True, "stream_options": {"include_usage": True}}).body
    )
    assert done == "[DONE]"
    for chunk in chunks:
        check("ChatCompletionChunk", chunk)
    assert [chunk["usage"] is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(chunks) - 1


@pytest.mark.parametrize("prompt", ["the", ["the", "fox"]])
def test_completions_answer_as_documented(prompt: object) -> None:
    asked = {"prompt": prompt, "max_tokens": 4}
    check("CompletionFinal", json.loads(ask("/v1/completions", asked).body))
    *chunks, done = events_of(ask("/v1/completions", {**asked, "stream": True}).body)
    assert done == "[DONE]"
    for chunk in chunks:
        check("Chunk", chunk)
    ends = [chunk for chunk in chunks if chunk["choices"][0]["finish_reason"]]
    for end in ends:
        check("CompletionFinal", end)
    assert len(ends) == (1 if isinstance(prompt, str) else 2)


# ---------------------------------------------------------------- errors

INVALID: Mapping[str, dict[str, object]] = {
    "`temperature`": {"temperature": 0.0},
    "`repetition_penalty`": {"repetition_penalty": 0.0},
    "`frequency_penalty`": {"frequency_penalty": 2.5},
    "`top_p`": {"top_p": 1.0},
    "`typical_p`": {"typical_p": 1.0},
    "`top_k`": {"top_k": 0},
    "`max_new_tokens` must be strictly": {"max_new_tokens": 0},
    "`inputs` tokens + `max_new_tokens`": {"max_new_tokens": 9999},
    "`stop` supports up to 4": {"stop": ["a", "b", "c", "d", "e"]},
    "`top_n_tokens`": {"top_n_tokens": 6},
    "`truncate`": {"truncate": 0},
    "`best_of` must be": {"best_of": 3, "do_sample": True},
    "you must use sampling": {"best_of": 2},
    "`seed` must not be set": {"best_of": 2, "do_sample": True, "seed": 1},
    "'properties'": {"grammar": {"type": "json", "value": {}}},
}


@pytest.mark.parametrize("problem", INVALID)
def test_what_tgi_refuses_is_refused_in_its_words_with_422_or_inside_a_stream(problem: str) -> None:
    asked = {"inputs": "the", "parameters": INVALID[problem]}
    response = ask("/generate", asked)
    assert response.status == 422
    answer = json.loads(response.body)
    check("ErrorResponse", answer)
    assert answer["error_type"] == "validation"
    assert problem in answer["error"]
    response = ask("/generate_stream", asked)
    assert response.status == 200
    [event] = events_of(response.body)
    check("ErrorResponse", event)


@pytest.mark.parametrize("parameters", [{"best_of": 2, "do_sample": True}, {"decoder_input_details": True}])
def test_what_streams_have_not_is_refused_there(parameters: dict[str, object]) -> None:
    [event] = events_of(ask("/generate_stream", {"inputs": "the", "parameters": parameters}).body)
    assert "when streaming tokens" in event["error"]


@pytest.mark.parametrize("field", ["stop", "details", "do_sample", "watermark", "decoder_input_details"])
def test_a_null_is_no_value_of_a_field_without_one(field: str) -> None:
    response = ask("/generate", {"inputs": "the", "parameters": {field: None}})
    assert response.status == 422
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("field", ["ignore_eos", "min_new_tokens", "stop_token_ids", "presence_penalty", "min_p"])
def test_unknown_fields_are_ignored(field: str) -> None:
    assert ask("/generate", {"inputs": "the", "parameters": {**GREEDY, field: 1}}).status == 200


@pytest.mark.parametrize(
    ("body", "headers", "flags", "status"),
    [
        (b"{", {}, (), 400),
        (b'{"inputs": 5}', {}, (), 422),
        (b'{"inputs": "x"}', {"content-type": "text/plain"}, (), 415),
        (b'{"inputs": "' + b"x" * 200 + b'"}', {}, ("--payload-limit", "100"), 413),
    ],
)
def test_bodies_that_are_no_request_get_plain_text(
    body: bytes, headers: dict[str, str], flags: tuple[str, ...], status: int
) -> None:
    response = ask("/generate", body, *flags, fault=None, **headers)
    assert response.status == status
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/generate", "/", "/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(("fault", "status"), [(Fault.OVERLOAD, 429), (Fault.DEAD, 424)])
def test_errors_of_the_engine_have_their_status_and_documented_form(path: str, fault: Fault, status: int) -> None:
    response = ask(path, {"inputs": "the", "prompt": "the", "messages": MESSAGES}, fault=fault)
    assert response.status == status
    check("ErrorResponse", json.loads(response.body))


def test_an_openai_stream_calls_every_error_a_422_and_still_ends_with_done() -> None:
    asked = {"messages": MESSAGES, "stream": True, "top_p": 1.0}
    error, done = events_of(ask("/v1/chat/completions", asked).body)
    assert error["error"]["http_status_code"] == 422
    assert "`top_p`" in error["error"]["message"]
    assert done == "[DONE]"


def test_a_suffix_and_too_many_prompts_have_types_of_their_own() -> None:
    suffix = json.loads(ask("/v1/completions", {"prompt": "a", "suffix": "b"}).body)
    many = json.loads(ask("/v1/completions", {"prompt": ["a"] * 5}).body)
    assert (suffix["error_type"], many["error_type"]) == ("suffix not supported", "batch size exceeded")
    for answer in (suffix, many):
        check("ErrorResponse", answer)


GUARDED = ("/", "/generate", "/generate_stream", "/v1/completions", "/v1/chat/completions", "/tokenize")


@pytest.mark.parametrize("path", GUARDED)
def test_a_guarded_route_without_the_key_is_an_empty_401(path: str) -> None:
    body = {"inputs": "the", "prompt": "the", "messages": MESSAGES}
    response = ask(path, body, "--api-key", "Right")
    assert (response.status, response.body) == (401, b"")
    assert ask(path, body, "--api-key", "Right", authorization="Bearer right").status == 200


@pytest.mark.parametrize("path", ["/info", "/metrics", "/health", "/v1/models"])
def test_the_other_routes_are_open_even_with_a_key(path: str) -> None:
    assert ask(path, None, "--api-key", "right").status == 200
    assert ask("/chat_tokenize", {"messages": MESSAGES}, "--api-key", "right").status == 200


def test_unknown_paths_and_methods_are_the_web_frameworks() -> None:
    assert (ask("/nowhere").status, ask("/info", {}).status) == (404, 405)


def test_a_shard_that_died_makes_health_a_documented_503() -> None:
    async def main() -> HttpResponse:
        async with Simulator("tgi") as simulator:
            simulator.kill_engine()
            http = HttpClient(simulator.url, clock=MonotonicClock())
            try:
                return await http.request("GET", "/health")
            finally:
                await http.aclose()

    response = asyncio.run(main())
    assert response.status == 503
    answer = json.loads(response.body)
    check("ErrorResponse", answer)
    assert answer == {"error": "unhealthy", "error_type": "healthcheck"}


def test_where_the_engine_departs_from_its_document_so_does_the_simulator() -> None:
    models = json.loads(ask("/v1/models").body)
    compatible = json.loads(ask("/", {"inputs": "the", "parameters": GREEDY}).body)
    chat_error = next(events_of(ask("/v1/chat/completions", {"messages": MESSAGES, "stream": True, "top_p": 1.0}).body))
    for documented, answer in (("ModelInfo", models), ("StreamResponse", compatible), ("ErrorResponse", chat_error)):
        with pytest.raises(ValidationError):
            check(documented, answer)
    # Values that the document allows and the engine refuses, and the other way round.
    assert ask("/generate", {"inputs": "the", "parameters": {"top_p": 1.0}}).status == 422
    assert ask("/generate", {"inputs": "the", "parameters": {**GREEDY, "seed": 0, "top_n_tokens": 0}}).status == 200
    # The document's default is 1024 tokens; the engine goes on to the end of the context.
    unlimited = {"inputs": "the", "parameters": {"details": True}}
    answer = json.loads(ask("/generate", unlimited, "--max-total-tokens", "40").body)
    assert answer["details"]["generated_tokens"] == 38
