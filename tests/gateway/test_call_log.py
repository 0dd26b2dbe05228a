"""What the log says of a call, and above all what it does not."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable

import pytest
from asgi_client import living, post
from pydantic import ValidationError

from enginebay.config.gateway_logs import LogsConfig
from enginebay.gateway.app import build_app
from enginebay.gateway.call_log import MAX_LOGGED_CHARS, CallLog, TextLog, prompt_text
from enginebay.gateway.hooks import GatewayHook, Hooks
from enginebay.gateway.logs import make_logger
from enginebay.guard import GuardedBackend
from enginebay.testing.fake_backend import FakeBackend, say_tokens
from enginebay.testing.fake_clock import FakeClock
from enginebay.types import (
    Chat,
    GenerationChunk,
    GenerationRequest,
    ImagePart,
    Message,
    SamplingParams,
    Text,
    TextPart,
    TokenIds,
)

SECRET = "tell nobody of the merger"


def logged(
    make_hook: Callable[..., GatewayHook] | None, *bodies: dict, headers: dict[str, str] | None = None
) -> tuple[str, list[dict]]:
    """The whole log, and its lines about calls."""
    stream = io.StringIO()

    async def main() -> None:
        clock = FakeClock(100.0)
        log = make_logger(stream)
        backend = GuardedBackend(FakeBackend(clock=clock))
        hooks = [] if make_hook is None else [make_hook(log)]
        app = build_app(backend, served_name="m", clock=clock, log=log, hooks=hooks)

        async def ask() -> None:
            for body in bodies:
                await post(app, "/v1/completions", body, headers=headers).task

        async with living(app):
            await clock.run(ask())

    asyncio.run(main())
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return stream.getvalue(), [line for line in lines if line["event"] == "call"]


def completion(**fields) -> dict:
    return {"prompt": SECRET, "max_tokens": 3, **fields}


def test_a_line_has_the_id_the_tokens_and_the_outcome_and_no_word_of_the_prompt() -> None:
    text, [line] = logged(CallLog, completion(), headers={"x-request-id": "abc-1"})
    assert line["request_id"] == "abc-1"
    assert (line["model"], line["outcome"], line["code"], line["num_output_tokens"]) == ("m", "finished", None, 3)
    assert line["replicas"] == ["0"]
    assert "merger" not in text


def test_neither_prompts_nor_answers_nor_keys_are_in_the_log_unless_asked() -> None:
    key = {"authorization": "Bearer eb-verysecret"}
    bodies = [completion(), completion(stream=True), completion(temperature=-1), completion(unknown=SECRET)]
    text, _ = logged(CallLog, *bodies, headers=key)
    answers = said().split()
    assert answers == ["t0", "t1", "t2"]
    for secret in ("merger", "verysecret", *answers):
        assert not re.search(rf"\b{re.escape(secret)}\b", text)


def test_texts_are_there_where_they_are_asked_for() -> None:
    _, [line] = logged(TextLog, completion())
    assert line["prompts"] == [SECRET]
    assert line["completion"] == said()


def test_several_choices_have_their_prompts_logged_and_no_mixture_of_their_answers() -> None:
    _, [line] = logged(TextLog, completion(n=2))
    assert (line["prompts"], line["completion"]) == ([SECRET, SECRET], None)


def test_long_texts_are_cut_and_open_calls_hold_no_more_than_that() -> None:
    long = "long " * MAX_LOGGED_CHARS
    _, [line] = logged(TextLog, completion(prompt=long))
    [prompt] = line["prompts"]
    assert prompt == f"{long[:MAX_LOGGED_CHARS]} [cut]"


def test_what_was_gathered_for_a_call_is_gone_when_it_ends() -> None:
    hooks: list[TextLog] = []

    def make(log) -> TextLog:
        hooks.append(TextLog(log))
        return hooks[0]

    logged(make, completion(), completion(stream=True))
    assert hooks[0]._completions == {}


def test_a_log_that_nobody_asked_for_costs_nothing() -> None:
    assert Hooks([CallLog(make_logger())], make_logger()).on_chunk == ()
    assert logged(None, completion())[1] == []


def test_each_kind_of_prompt_can_be_read() -> None:
    parts = (TextPart("what is this?"), ImagePart("data:image/png;base64,AAAA"))
    chat = Chat((Message("system", "be brief"), Message("user", parts), Message("assistant", None)))
    assert prompt_text(chat) == "system: be brief\nuser: what is this?[image]\nassistant: "
    assert prompt_text(TokenIds((1, 22))) == "1 22"


def test_texts_without_lines_to_stand_in_are_refused() -> None:
    with pytest.raises(ValidationError, match="ask for both"):
        LogsConfig.model_validate({"texts": True})
    assert LogsConfig() == LogsConfig(calls=False, texts=False)


def said() -> str:
    request = GenerationRequest(request_id="r", prompt=Text(SECRET), sampling=SamplingParams(max_tokens=3))
    return "".join(step.text for step in say_tokens(request) if isinstance(step, GenerationChunk))
