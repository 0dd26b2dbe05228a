"""What the adapter sends: documented by TGI, refused by nobody, and nothing that was asked for left out."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tgi_contract import openapi

from enginebay.errors import UnsupportedFeature
from enginebay.testing.simulators.wires.tgi.requests import ChatBody, GenerateBody, Parameters
from enginebay.testing.simulators.wires.tgi.validation import Limits, chat_parameters, validate
from enginebay.types import (
    Chat,
    GenerationRequest,
    Message,
    ResponseFormat,
    SamplingParams,
    Text,
    TextPart,
)
from enginebay_tgi.request_body import encode_request

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
LIMITS = Limits(
    max_total_tokens=10_000, max_input_tokens=9_999, max_stop_sequences=4, max_top_n_tokens=5, max_best_of=2,
    has_grammars=True, has_prefill_logprobs=True,
)  # fmt: skip
SAMPLING = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 100),
    temperature=st.sampled_from([0.0, 0.01, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([0.01, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 50]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.2]),
    frequency_penalty=st.sampled_from([-1.5, 0.0, 2.0]),
    stop=st.lists(st.text(min_size=1, max_size=3), max_size=4).map(tuple),
    seed=st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
)
FORMATS = st.sampled_from(
    [
        None,
        ResponseFormat(type="text"),
        ResponseFormat(type="regex", schema="a+"),
        ResponseFormat(type="json_schema", schema={"name": "n", "schema": SCHEMA}),
    ]
)


@cache
def validator(name: str) -> Draft202012Validator:
    def plain(node: Any) -> Any:
        if isinstance(node, list):
            return [plain(item) for item in node]
        if not isinstance(node, dict):
            return node
        # Bounds are judged by the router's own checks: the document's differ from them (seed 0, top_p 1).
        left_out = ("nullable", "discriminator", "exclusiveMinimum", "minimum", "maximum")
        kept = {key: plain(value) for key, value in node.items() if key not in left_out}
        return {"anyOf": [kept, {"type": "null"}]} if node.get("nullable") is True else kept

    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": plain(openapi()["components"])})


@given(sampling=SAMPLING, wanted=FORMATS, logprobs=st.none() | st.integers(0, 5), truncate=st.none() | st.just(3))
def test_a_text_becomes_a_documented_request_that_the_router_takes(
    sampling: SamplingParams, wanted: ResponseFormat | None, logprobs: int | None, truncate: int | None
) -> None:
    asked = GenerationRequest(
        request_id="r", prompt=Text("hi"), sampling=sampling, response_format=wanted, logprobs=logprobs,
        truncate_prompt_tokens=truncate,
    )  # fmt: skip
    body = json.loads(encode_request(asked, backend="tgi", adds_special_tokens=True))
    validator("GenerateRequest").validate(body)
    assert set(body["parameters"]) <= set(openapi()["components"]["schemas"]["GenerateParameters"]["properties"])
    assert None not in body["parameters"].values()
    read = _read(body, GenerateBody)
    valid = validate(read.inputs, read.parameters, LIMITS, is_streamed=True, adds_special_tokens=True)
    assert valid.is_sampled == (sampling.temperature > 0)
    assert (valid.max_new_tokens, valid.stop) == (sampling.max_tokens, sampling.stop)
    assert valid.num_top_tokens == (logprobs or 0)


@given(sampling=SAMPLING, wanted=FORMATS, logprobs=st.none() | st.integers(0, 5))
def test_a_chat_becomes_a_documented_request_that_the_router_takes(
    sampling: SamplingParams, wanted: ResponseFormat | None, logprobs: int | None
) -> None:
    chat = Chat((Message("system", "be brief", name="rules"), Message("user", (TextPart("a"), TextPart("b")))))
    asked = GenerationRequest(
        request_id="r", prompt=chat, sampling=sampling, response_format=wanted, logprobs=logprobs
    )  # fmt: skip
    lacking = {
        "top_k": sampling.top_k > 0 and sampling.temperature > 0,
        "repetition_penalty": sampling.repetition_penalty != 1,
    }
    if any(lacking.values()):
        with pytest.raises(UnsupportedFeature) as caught:
            encode_request(asked, backend="tgi", adds_special_tokens=True)
        assert lacking[str(caught.value.field)]
        return
    body = json.loads(encode_request(asked, backend="tgi", adds_special_tokens=True))
    validator("ChatRequest").validate(body)
    assert set(body) <= set(openapi()["components"]["schemas"]["ChatRequest"]["properties"])
    read = _read(body, ChatBody)
    valid = validate("hi", chat_parameters(read), LIMITS, is_streamed=True, adds_special_tokens=False)
    assert valid.is_sampled == (sampling.temperature > 0)
    assert (valid.max_new_tokens, valid.stop) == (sampling.max_tokens, sampling.stop)
    assert read.stream_options.include_usage


def _read(body: object, form: Any) -> Any:
    import msgspec

    return msgspec.json.decode(msgspec.json.encode(body), type=form)


@pytest.mark.parametrize("kind", ["json_object", "grammar", "choice"])
def test_a_form_of_output_that_tgi_lacks_is_refused(kind: Any) -> None:
    asked = GenerationRequest(
        request_id="r",
        prompt=Text("hi"),
        sampling=SamplingParams(max_tokens=1),
        response_format=ResponseFormat(type=kind),
    )
    with pytest.raises(UnsupportedFeature, match="response_format"):
        encode_request(asked, backend="tgi", adds_special_tokens=True)


@pytest.mark.parametrize(
    ("chat", "field"),
    [
        (Chat((Message("user", "hi"),), add_generation_prompt=False), "add_generation_prompt"),
        (Chat((Message("user", "hi"), Message("assistant", "I"))), "messages"),
        (Chat((Message("user", "hi"),), tool_choice="required"), "tool_choice"),
    ],
)
def test_a_chat_that_tgi_would_render_otherwise_is_refused(chat: Chat, field: str) -> None:
    asked = GenerationRequest(request_id="r", prompt=chat, sampling=SamplingParams(max_tokens=1))
    with pytest.raises(UnsupportedFeature) as caught:
        encode_request(asked, backend="tgi", adds_special_tokens=True)
    assert caught.value.field == field


def test_alternatives_of_prompt_tokens_are_refused() -> None:
    asked = GenerationRequest(
        request_id="r", prompt=Text("hi"), sampling=SamplingParams(max_tokens=1), prompt_logprobs=2
    )  # fmt: skip
    with pytest.raises(UnsupportedFeature, match="prompt_logprobs"):
        encode_request(asked, backend="tgi", adds_special_tokens=True)


def test_the_defaults_of_the_simulated_router_are_the_contracts() -> None:
    """`do_sample` is off where parameters are given and on where they are not."""
    assert Parameters().do_sample is False
    assert _read({"inputs": "x"}, GenerateBody).parameters.do_sample is True
