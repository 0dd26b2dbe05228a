"""Whatever numbers a client sends, they are the client's: refused by name, or harmless to an engine."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from enginebay import request_checks
from enginebay.backends.reference.engine_requests import engine_request
from enginebay.engine.logits import StepLogits
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.request import EngineRequest
from enginebay.engine.sampler import Sampler
from enginebay.engine.sequence import Sequence
from enginebay.errors import EngineBayError, InvalidRequest, UnsupportedFeature
from enginebay.request_checks import check_request
from enginebay.testing import FakeBackend
from enginebay.types import BackendInfo, Capabilities, Chat, Feature, GenerationRequest, Message, SamplingParams, Text
from enginebay.wire.openai_errors import wire_form
from enginebay.wire.openai_requests import CompletionBody, parse
from enginebay.wire.openai_to_request import Target, completion_requests

INFO = FakeBackend().info
PLAIN = GenerationRequest(request_id="r", prompt=Text("a"), sampling=SamplingParams(max_tokens=4))

INTEGERS = ("max_tokens", "min_tokens", "top_k", "seed", "priority", "n", "logprobs", "truncate_prompt_tokens")
FLOATS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
EDGES = [0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**70), 10**30, 10**400]
integers = st.one_of(st.sampled_from(EDGES), st.integers())
floats = st.one_of(
    st.sampled_from([0.0, 5e-324, 1e-308, 1e-45, 1e-5, 0.01, 1.0, 2.0, 100.0, 3.5e38, 1e39, 1e308, -1e39]),
    st.floats(allow_nan=False, allow_infinity=False),
)
bodies = st.fixed_dictionaries(
    {"prompt": st.just("a b")},
    optional={
        **dict.fromkeys(INTEGERS, integers),
        **dict.fromkeys(FLOATS, st.one_of(floats, integers)),
        "stop_token_ids": st.lists(integers, max_size=3),
        "logit_bias": st.dictionaries(integers.map(str), floats, max_size=3),
    },
)


@given(bodies)
@settings(max_examples=400, deadline=None)
def test_no_number_of_a_client_is_a_fault_of_the_server(fields: dict[str, object]) -> None:
    refusal = None
    try:
        body = parse(json.dumps(fields).encode(), msgspec.json.Decoder(CompletionBody))
        for request in completion_requests(body, Target(info=INFO, max_choices=128), request_id="r"):
            check_request(request, INFO)
            engine = engine_request(request, [1, 2], request_id="r", seed=request.sampling.seed or 0, arrived_at=0.0)
            assert msgspec.msgpack.decode(msgspec.msgpack.encode(engine), type=EngineRequest) == engine
    except EngineBayError as error:
        refusal = error
    if refusal is not None:
        assert wire_form(refusal).status == 400
        assert getattr(refusal, "field", None) is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 10**30),
        ("top_k", 10**400),
        ("seed", 2**63),
        ("max_tokens", 2**64),
        ("stop_token_ids", (2**63,)),
        ("stop_token_ids", (-1,)),
        ("repetition_penalty", 1e-308),
        ("repetition_penalty", 1e-45),
        ("repetition_penalty", 101.0),
        ("temperature", 1e39),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("logit_bias", {5: 1e308}),
        ("logit_bias", {5: -1e39}),
        ("logit_bias", {5: math.nan}),
        ("logit_bias", {2**70: 1.0}),
    ],
)
def test_a_sampling_number_out_of_bounds_is_refused_by_its_field(field: str, value: object) -> None:
    request = replace(PLAIN, sampling=replace(PLAIN.sampling, **{field: value}))
    with pytest.raises(InvalidRequest) as caught:
        check_request(request, INFO)
    assert caught.value.field == field


@pytest.mark.parametrize("priority", [10**30, -(2**70)])
def test_a_priority_beyond_64_bits_is_refused(priority: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_request(replace(PLAIN, priority=priority), INFO)
    assert caught.value.field == "priority"


def test_the_bound_of_an_integer_is_written_as_an_integer() -> None:
    with pytest.raises(InvalidRequest, match=r"-9223372036854775807 and at most 9223372036854775807, not 2361183"):
        check_request(replace(PLAIN, sampling=replace(PLAIN.sampling, seed=2**71)), INFO)


@given(
    temperature=st.sampled_from([0.0, 5e-324, 1e-5, 1.0, 100.0]),
    top_p=st.sampled_from([5e-324, 1e-45, 0.5, 1.0]),
    min_p=st.sampled_from([0.0, 5e-324, 1e-45, 1.0]),
    top_k=st.sampled_from([0, 1, 8, 2**63 - 1]),
    repetition_penalty=st.sampled_from([0.01, 1.0, 100.0]),
    penalty=st.sampled_from([-2.0, 0.0, 2.0]),
    bias=st.sampled_from([-100.0, 0.0, 100.0]),
    min_tokens=st.sampled_from([0, 4]),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)
@settings(max_examples=150, deadline=None)
def test_the_extremes_within_the_bounds_leave_usable_logits(
    *,
    temperature: float,
    top_p: float,
    min_p: float,
    top_k: int,
    repetition_penalty: float,
    penalty: float,
    bias: float,
    min_tokens: int,
    scale: float,
) -> None:
    vocab_size = 8
    sampling = SamplingParams(
        max_tokens=4,
        temperature=temperature,
        top_p=top_p,
        min_p=min_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        presence_penalty=penalty,
        frequency_penalty=penalty,
        logit_bias=dict.fromkeys(range(vocab_size), bias),
        min_tokens=min_tokens,
    )
    request = replace(PLAIN, sampling=sampling)
    check_request(request, INFO)
    engine = engine_request(request, [1, 2, 3], request_id="r", seed=1, arrived_at=0.0)
    sequence = Sequence(engine, arrived_at=0.0)
    plan = StepPlan([ScheduledSequence(sequence, 0, 3, samples=True)])
    logits = torch.linspace(-scale, scale, vocab_size)[None]
    [[token]] = Sampler(vocab_size=vocab_size, eos_token_ids=(0,)).sample(StepLogits(logits), plan)
    assert token.error is None
    assert 0 <= token.token_id < vocab_size


WITHOUT_TOOLS = BackendInfo(
    kind="k", name="plain", model="m", capabilities=Capabilities(features=frozenset(Feature) - {Feature.TOOLS})
)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Message("assistant", None, tool_calls=({"id": "c", "type": "function"},)), "messages[1].tool_calls"),
        (Message("tool", "4", tool_call_id="c"), "messages[1].tool_call_id"),
    ],
)
def test_messages_about_tools_need_a_backend_with_tools(message: Message, field: str) -> None:
    request = replace(PLAIN, prompt=Chat(messages=(Message("user", "2+2"), message)))
    check_request(request, INFO)
    with pytest.raises(UnsupportedFeature) as caught:
        check_request(request, WITHOUT_TOOLS)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "continue_final_message"])
def test_template_arguments_may_not_take_the_place_of_fields(name: str) -> None:
    request = replace(PLAIN, prompt=Chat(messages=(Message("user", "a"),), template_kwargs={name: []}))
    with pytest.raises(InvalidRequest, match=name) as caught:
        check_request(request, INFO)
    assert caught.value.field == "chat_template_kwargs"


STRANGE = [
    True, False, None, 0, 1, -1, 2**63 - 1, 2**63, 0.0, 1.0, 1.5, -0.5, 100.0, 101.0, math.nan, math.inf,
    "", "a", "\ud83d", (), (1,), ("a",), (True,), [], {}, {1: 1.0},
]  # fmt: skip
SAMPLING_FIELDS = [field.name for field in fields(SamplingParams)]
REQUEST_FIELDS = [
    field.name for field in fields(GenerationRequest) if field.name not in ("sampling", "prompt", "response_format")
]


def outcome_of(request: GenerationRequest, info: BackendInfo) -> str:
    try:
        check_request(request, info)
    except EngineBayError as error:
        return f"{type(error).__name__}: {error}"
    return "fine"


@pytest.mark.parametrize("field", [*SAMPLING_FIELDS, *REQUEST_FIELDS])
def test_the_short_way_for_neutral_requests_says_what_the_long_one_says(field: str, monkeypatch) -> None:
    infos = [INFO, replace(INFO, capabilities=Capabilities(features=frozenset({Feature.TEXT_PROMPT})))]
    owner = PLAIN.sampling if field in SAMPLING_FIELDS else PLAIN
    strange = [replace(owner, **{field: value}) for value in STRANGE]
    requests = [one if isinstance(one, GenerationRequest) else replace(PLAIN, sampling=one) for one in strange]
    by_the_short_way = [outcome_of(request, info) for request in requests for info in infos]
    monkeypatch.setattr(request_checks, "_is_neutral", lambda request: False)
    assert by_the_short_way == [outcome_of(request, info) for request in requests for info in infos]


def test_most_requests_go_the_short_way(monkeypatch) -> None:
    monkeypatch.setattr(request_checks, "check_types", lambda request: pytest.fail("the long way"))
    check_request(PLAIN, INFO)
    with pytest.raises(InvalidRequest, match="prompt"):
        check_request(replace(PLAIN, prompt=Text("\ud83d")), INFO)
    check_request(replace(PLAIN, prompt=Chat((Message("user", "hello"),))), INFO)
    with pytest.raises(InvalidRequest, match="messages"):
        check_request(replace(PLAIN, prompt=Chat(())), INFO)
