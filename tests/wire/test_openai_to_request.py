"""Bodies as clients write them become requests with every field explicit."""

import json
from dataclasses import replace

import msgspec
import pytest

from enginebay.errors import InvalidRequest, UnsupportedFeature
from enginebay.request_checks import MAX_SEED, check_request
from enginebay.types import BackendInfo, Capabilities, Feature, GenerationRequest, ResponseFormat, SamplingParams
from enginebay.wire.openai_messages import chat_prompt
from enginebay.wire.openai_requests import (
    FIELDS_WITHOUT_EFFECT,
    ChatBody,
    CompletionBody,
    GenerateBody,
    parse,
    parse_query,
)
from enginebay.wire.openai_to_request import (
    Target,
    chat_max_tokens,
    chat_requests,
    completion_requests,
    generate_request,
)

EVERYTHING = BackendInfo(
    kind="any", name="any", model="tiny", capabilities=Capabilities(features=frozenset(Feature)), max_model_len=100
)
TARGET = Target(info=EVERYTHING, max_choices=8)


def completion(**fields: object) -> list[GenerationRequest]:
    data = json.dumps({"prompt": "a", **fields}).encode()
    body = parse(data, msgspec.json.Decoder(CompletionBody))
    requests = completion_requests(body, TARGET, request_id="r")
    for request in requests:
        check_request(request, EVERYTHING)
    return requests


def chat(**fields: object) -> list[GenerationRequest]:
    data = json.dumps({"messages": [{"role": "user", "content": "a"}], **fields}).encode()
    body = parse(data, msgspec.json.Decoder(ChatBody))
    max_tokens = chat_max_tokens(body)
    prompt = chat_prompt(body, backend="any")
    return chat_requests(body, prompt, TARGET, request_id="r", max_tokens=99 if max_tokens is None else max_tokens)


def test_defaults_are_written_out() -> None:
    [request] = completion()
    assert request.sampling == SamplingParams(max_tokens=16, temperature=1.0, top_p=1.0)
    assert (request.logprobs, request.prompt_logprobs, request.delivery) == (None, None, "final")


def test_minus_one_switches_top_k_and_seed_off() -> None:
    [request] = completion(top_k=-1, seed=-1)
    assert (request.sampling.top_k, request.sampling.seed) == (0, None)


def test_choices_get_successive_seeds_that_stay_in_range() -> None:
    assert [request.sampling.seed for request in completion(n=3, seed=5)] == [5, 6, 7]
    seeds = [request.sampling.seed for request in completion(n=3, seed=MAX_SEED)]
    assert len(set(seeds)) == 3
    assert all(seed is not None and -MAX_SEED <= seed <= MAX_SEED for seed in seeds)


def test_echo_with_logprobs_asks_for_the_prompts_as_well() -> None:
    [request] = completion(echo=True, logprobs=3, max_tokens=0)
    assert (request.logprobs, request.prompt_logprobs) == (3, 3)


def test_chat_logprobs_are_the_number_of_alternatives() -> None:
    assert chat(logprobs=True)[0].logprobs == 0
    assert chat(logprobs=True, top_logprobs=4)[0].logprobs == 4
    assert chat(logprobs=False)[0].logprobs is None


def test_both_names_of_max_tokens_work_in_a_chat() -> None:
    assert chat(max_tokens=5)[0].sampling.max_tokens == 5
    assert chat(max_completion_tokens=6)[0].sampling.max_tokens == 6
    assert chat(max_completion_tokens=6, max_tokens=6)[0].sampling.max_tokens == 6
    assert chat()[0].sampling.max_tokens == 99


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, ResponseFormat(type="json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            ResponseFormat(type="json_schema", schema={"schema": {}}),
        ),
        ({"structured_outputs": {"regex": "a+"}}, ResponseFormat(type="regex", schema="a+")),
        ({"structured_outputs": {"choice": ["a"]}}, ResponseFormat(type="choice", schema=["a"])),
        ({"structured_outputs": {"json": {}}}, ResponseFormat(type="json_schema", schema={})),
        ({"structured_outputs": {"json": None, "json_object": False}}, None),
    ],
)  # fmt: skip
def test_constraints_reach_a_backend_that_has_them(fields: dict, expected: ResponseFormat | None) -> None:
    assert completion(**fields)[0].response_format == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"structured_outputs": {"regex": "a", "choice": ["b"]}},
        {"structured_outputs": {"spell": 1}},
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
    ],
)
def test_a_constraint_that_is_not_understood_is_refused(fields: dict) -> None:
    with pytest.raises(InvalidRequest):
        completion(**fields)


def test_tools_and_templates_reach_the_prompt() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    [request] = chat(tools=[tool], tool_choice="required", chat_template="x", chat_template_kwargs={"a": 1})
    assert request.prompt.tools == (tool,)
    assert request.prompt.tool_choice == "required"
    assert (request.prompt.template, request.prompt.template_kwargs) == ("x", {"a": 1})


def test_continuing_a_message_leaves_out_the_generation_prompt() -> None:
    [request] = chat(continue_final_message=True)
    assert (request.prompt.continue_final_message, request.prompt.add_generation_prompt) == (True, False)


def test_an_image_with_a_detail_is_refused_rather_than_sent_without_it() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://host/a.png", "detail": "high"}}
    with pytest.raises(UnsupportedFeature) as caught:
        chat(messages=[{"role": "user", "content": [part]}])
    assert caught.value.field == "messages[0].content[0].image_url.detail"


def test_only_the_documented_fields_have_no_effect() -> None:
    plain = completion()[0]
    values: dict[str, object] = {"user": "u", "metadata": {"a": 1}, "store": True, "service_tier": "flex"}
    assert set(values) == set(FIELDS_WITHOUT_EFFECT)
    assert completion(**values)[0] == plain


def test_the_lessons_endpoint_has_the_lessons_defaults() -> None:
    request = generate_request(parse_query({"prompt": "a"}, GenerateBody), request_id="r")
    assert request.sampling == SamplingParams(max_tokens=200, temperature=0.8, top_p=0.95)


def test_more_alternatives_than_the_backend_gives_are_refused_by_the_name_that_the_client_used() -> None:
    capabilities = Capabilities(features=frozenset(Feature), max_logprobs=20)
    target = Target(info=replace(EVERYTHING, capabilities=capabilities), max_choices=8)
    data = b'{"messages": [{"role": "user", "content": "a"}], "logprobs": true, "top_logprobs": 21}'
    body = parse(data, msgspec.json.Decoder(ChatBody))
    with pytest.raises(InvalidRequest, match=r"top_logprobs is 21, the most .* is 20") as caught:
        chat_requests(body, chat_prompt(body, backend="any"), target, request_id="r", max_tokens=9)
    assert caught.value.field == "top_logprobs"
