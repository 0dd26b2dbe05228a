"""Bodies of every dialect, as the adapters write them, read back by code that shares nothing with them."""

import json

import pytest

from enginebay.loadtest.sent.body import planned_prompt, read_body, without_identity
from enginebay.types import Chat, GenerationRequest, Message, SamplingParams, Text, TextPart, TokenIds
from enginebay.verdict.certificate.fields import carried, planned_sampling
from enginebay.wire.openai_dialects import DIALECTS
from enginebay.wire.openai_encode import encode_request

GREEDY = SamplingParams(max_tokens=5, temperature=0.0)
DRAWN = SamplingParams(
    max_tokens=5, temperature=0.7, top_p=0.9, top_k=40, repetition_penalty=1.1, frequency_penalty=0.2, seed=-3,
    stop=("a", "b"),
)  # fmt: skip
PROMPT = Text('She said "model":"x" and left.')


def tgi(request: GenerationRequest) -> bytes:
    module = pytest.importorskip("enginebay_tgi.request_body")
    return module.encode_request(request, backend="b", adds_special_tokens=False)


def llama_cpp(request: GenerationRequest) -> bytes:
    module = pytest.importorskip("enginebay_llama_cpp.encode")
    return module.encode_completion(request, context_length=512, backend="b")


def sglang(request: GenerationRequest) -> bytes:
    module = pytest.importorskip("enginebay_sglang.encode")
    return module.encode_generate(request, backend="b")


def tensorrt_llm(request: GenerationRequest) -> bytes:
    module = pytest.importorskip("enginebay_tensorrt_llm.requests")
    return module.encode(request, model="m", backend="b", drawn_seed=1, token_ids_only=False)


def vllm(request: GenerationRequest) -> bytes:
    return encode_request(request, model="m", dialect=DIALECTS["vllm"], backend="b")


ENCODERS = [vllm, tgi, llama_cpp, sglang, tensorrt_llm]


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_what_each_adapter_sends_is_what_was_asked(encode, sampling) -> None:
    body = read_body(encode(GenerationRequest(request_id="r-3", prompt=PROMPT, sampling=sampling)))
    assert body is not None
    found = dict(carried(planned_sampling(sampling), body.sampling))
    assert {name for name, how in found.items() if how in ("missing", "other")} == set()
    assert (body.prompt_form, body.prompt_sha256) == planned_prompt(PROMPT)
    if sampling is DRAWN:
        asked = ["max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "frequency_penalty", "seed"]
        assert [name for name in asked if found[name] == "sent"] == asked


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize("field", ["max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop"])
def test_a_field_that_an_adapter_drops_is_missing(encode, field) -> None:
    body = read_body(encode(GenerationRequest(request_id="r-3", prompt=PROMPT, sampling=DRAWN)))
    assert body is not None
    del body.sampling[field]
    assert dict(carried(planned_sampling(DRAWN), body.sampling))[field] == "missing"


def test_token_ids_and_conversations_are_told_from_text() -> None:
    ids = read_body(json.dumps({"prompt": [1, 2, 3]}).encode())
    assert ids is not None
    assert (ids.prompt_form, ids.prompt_sha256) == planned_prompt(TokenIds((1, 2, 3)))
    parts = Chat((Message("user", (TextPart("one "), TextPart("two"))),))
    flat = read_body(json.dumps({"messages": [{"role": "user", "content": "one two"}]}).encode())
    content = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    in_parts = read_body(json.dumps({"messages": [{"role": "user", "content": content}]}).encode())
    assert flat is not None
    assert in_parts is not None
    assert flat.prompt_sha256 == in_parts.prompt_sha256 == planned_prompt(parts)[1]
    assert read_body(b"\xff\xfe") is None
    assert read_body(b"[1, 2]") is None


def test_only_the_name_of_the_model_and_the_id_of_the_request_are_left_out_of_the_load() -> None:
    body = b'{"model":"m \\"1\\"","rid":"run-7","prompt":"say \\"model\\":\\"m\\" run-7"}'
    left = without_identity(body, model='m "1"', request_id=b"run-7")
    assert left == b'{"model":"","rid":"","prompt":"say \\"model\\":\\"m\\" run-7"}'


@pytest.mark.parametrize(
    ("planned", "sent", "how"),
    [
        ({"top_k": 0}, {"top_k": 1}, "other"),
        ({"temperature": 0.7}, {"temperature": 0.0}, "other"),
        ({"ignore_eos": True}, {}, "missing"),
        ({"ignore_eos": False}, {}, "off"),
        ({"seed": None}, {"seed": 12}, "off"),
        ({"seed": 12}, {"seed": 13}, "other"),
        ({"stop": ("x",)}, {"stop": "x"}, "sent"),
        ({"logit_bias": {5: 1.0}}, {"logit_bias": {"5": 1.0}}, "sent"),
        ({"logit_bias": {5: 1.0}}, {"logit_bias": {"5": 2.0}}, "other"),
    ],
)
def test_each_field_is_held_to_the_plan(planned, sent, how) -> None:
    asked = planned_sampling(SamplingParams(**({"max_tokens": 4, "temperature": 0.7} | planned)))
    [name] = planned
    body = {name: value for name, value in asked.items() if name not in planned} | sent
    assert dict(carried(asked, body))[name] == how
