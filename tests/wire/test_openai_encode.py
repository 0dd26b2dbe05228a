from __future__ import annotations

import json
from dataclasses import replace

import pytest

from enginebay.errors import UnsupportedFeature
from enginebay.types import (
    Chat,
    GenerationRequest,
    ImagePart,
    Message,
    ResponseFormat,
    SamplingParams,
    Text,
    TextPart,
    TokenIds,
)
from enginebay.wire.openai_dialects import DIALECTS, ENGINEBAY, OPENAI, VLLM
from enginebay.wire.openai_encode import RESERVED_FIELDS, encode_request
from enginebay.wire.openai_requests import ChatBody, CompletionBody, parse

PLAIN = SamplingParams(max_tokens=8)
RICH = SamplingParams(
    max_tokens=8,
    temperature=0.5,
    top_p=0.9,
    top_k=40,
    min_p=0.05,
    repetition_penalty=1.1,
    presence_penalty=0.2,
    frequency_penalty=-0.3,
    logit_bias={7: -100.0},
    stop=("\n", "END"),
    include_stop_str_in_output=True,
    stop_token_ids=(3, 4),
    ignore_eos=True,
    min_tokens=2,
    seed=11,
    skip_special_tokens=False,
)
CHAT = Chat(
    (
        Message("system", "be brief"),
        Message("user", (TextPart("what is it?"), ImagePart("data:image/png;base64,AA"))),
        Message("assistant", None, tool_calls=({"id": "c", "type": "function", "function": {"name": "f"}},)),
        Message("tool", "42", tool_call_id="c", name="f"),
    ),
    tools=({"type": "function", "function": {"name": "f"}},),
    tool_choice="auto",
    template_kwargs={"enable_thinking": False},
    template="{{ messages }}",
    add_generation_prompt=False,
    continue_final_message=True,
)


def request(prompt=None, sampling=PLAIN, **fields) -> GenerationRequest:
    return GenerationRequest(request_id="r", prompt=prompt or Text("hi"), sampling=sampling, **fields)


def body(wanted: GenerationRequest, dialect=VLLM, **settings) -> dict:
    return json.loads(encode_request(wanted, model="m", dialect=dialect, backend="b", **settings))


def test_every_sampling_field_is_sent_even_at_its_default():
    assert body(request()) == {
        "model": "m", "prompt": "hi", "n": 1, "max_tokens": 8, "temperature": 1.0, "top_p": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "stop": [], "top_k": 0, "min_p": 0.0,
        "repetition_penalty": 1.0, "stop_token_ids": [], "include_stop_str_in_output": False, "ignore_eos": False,
        "min_tokens": 0, "skip_special_tokens": True, "priority": 0, "add_special_tokens": True,
        "return_token_ids": True, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_fields_of_the_openai_api_alone_go_to_a_server_that_knows_no_others():
    assert body(request(), OPENAI) == {
        "model": "m", "prompt": "hi", "n": 1, "max_tokens": 8, "temperature": 1.0, "top_p": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "stop": [],
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_rich_sampling_is_sent_as_it_is():
    sent = body(request(sampling=RICH))
    for field in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "seed"):
        assert sent[field] == getattr(RICH, field)
    assert sent["logit_bias"] == {"7": -100.0}
    assert sent["stop"] == ["\n", "END"]
    assert sent["stop_token_ids"] == [3, 4]
    assert (sent["ignore_eos"], sent["min_tokens"], sent["skip_special_tokens"]) == (True, 2, False)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"top_k": 5}, "top_k"),
        ({"min_p": 0.1}, "min_p"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"stop_token_ids": (1,)}, "stop_token_ids"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"min_tokens": 1}, "min_tokens"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"include_stop_str_in_output": True}, "include_stop_str_in_output"),
    ],
)
def test_what_the_dialect_has_no_field_for_is_refused_by_name(change, field):
    with pytest.raises(UnsupportedFeature) as caught:
        body(request(sampling=replace(PLAIN, **change)), OPENAI)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (request(Text("hi", add_special_tokens=False)), "add_special_tokens"),
        (request(Chat((Message("user", "x"),), add_special_tokens=True)), "add_special_tokens"),
        (request(Chat((Message("user", "x"),), add_generation_prompt=False)), "add_generation_prompt"),
        (request(Chat((Message("user", "x"),), template="t")), "chat_template"),
        (request(Chat((Message("user", "x"),), template_kwargs={"a": 1})), "chat_template_kwargs"),
        (request(priority=3), "priority"),
        (request(cache_salt="s"), "cache_salt"),
        (request(truncate_prompt_tokens=9), "truncate_prompt_tokens"),
        (request(prompt_logprobs=1), "prompt_logprobs"),
        (request(response_format=ResponseFormat(type="regex", schema="a+")), "structured_outputs"),
    ],
)
def test_what_only_an_extension_can_say_is_refused_by_name(wanted, field):
    assert body(wanted, VLLM)
    with pytest.raises(UnsupportedFeature) as caught:
        body(wanted, OPENAI)
    assert caught.value.field == field


def test_prompts_of_three_kinds_go_to_their_endpoints_in_their_forms():
    assert body(request(TokenIds((1, 2))))["prompt"] == [1, 2]
    assert "add_special_tokens" not in body(request(TokenIds((1, 2))))
    assert body(request(Text("x", add_special_tokens=False)))["add_special_tokens"] is False
    sent = body(request(CHAT))
    assert sent["messages"] == [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "what is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c", "name": "f"},
    ]
    assert sent["tool_choice"] == "auto"
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    assert (sent["add_generation_prompt"], sent["continue_final_message"]) == (False, True)


def test_log_probabilities_have_two_forms():
    assert body(request(logprobs=3))["logprobs"] == 3
    chat = body(request(Chat((Message("user", "x"),)), logprobs=3))
    assert (chat["logprobs"], chat["top_logprobs"]) == (True, 3)
    assert "logprobs" not in body(request())


def test_only_a_stream_is_asked_as_a_stream():
    for wanted in (request(delivery="final"), request(prompt_logprobs=0)):
        sent = body(wanted)
        assert "stream" not in sent
        assert "stream_options" not in sent


BARE = {"type": "object"}


@pytest.mark.parametrize(
    ("wanted", "fields"),
    [
        (ResponseFormat(type="text"), {}),
        (ResponseFormat(type="json_object"), {"response_format": {"type": "json_object"}}),
        (
            ResponseFormat(type="json_schema", schema={"name": "n"}),
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
        ),
        (
            ResponseFormat(type="json_schema", schema={"type": "object"}),
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "object"}},
                }
            },
        ),
        (ResponseFormat(type="choice", schema=["a", "b"]), {"structured_outputs": {"choice": ["a", "b"]}}),
    ],
)
def test_constraints_on_the_output_take_their_wire_form(wanted, fields):
    sent = body(request(response_format=wanted))
    assert {name: sent[name] for name in ("response_format", "structured_outputs") if name in sent} == fields


def test_an_adapter_is_asked_for_as_the_model():
    assert body(request(adapter="lora"))["model"] == "lora"


def test_extra_fields_are_added_and_none_of_them_is_one_that_a_request_decides():
    assert body(request(), extra_body={"stream_interval": 2})["stream_interval"] == 2
    for wanted in (request(sampling=RICH, logprobs=1, prompt_logprobs=1), request(CHAT, sampling=RICH, logprobs=1)):
        assert body(wanted).keys() <= RESERVED_FIELDS
        assert body(replace(wanted, prompt_logprobs=None)).keys() <= RESERVED_FIELDS


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_our_own_server_takes_every_body_that_is_sent(dialect):
    import msgspec

    sampling = RICH if dialect is not OPENAI else PLAIN
    for prompt in (Text("a"), TokenIds((1,))):
        sent = encode_request(request(prompt, sampling, logprobs=1), model="m", dialect=dialect, backend="b")
        assert parse(sent, msgspec.json.Decoder(CompletionBody)).max_tokens == sampling.max_tokens
    chat = CHAT if dialect is ENGINEBAY else Chat(CHAT.messages)
    sent = encode_request(request(chat, sampling, logprobs=1), model="m", dialect=dialect, backend="b")
    assert len(parse(sent, msgspec.json.Decoder(ChatBody)).messages) == len(chat.messages)
