from dataclasses import replace

import numpy as np
import pytest

from enginebay.errors import InvalidRequest
from enginebay.request_checks import check_request
from enginebay.types import BackendInfo, Capabilities, Feature, GenerationRequest, SamplingParams, Text, TokenIds

INFO = BackendInfo(kind="k", name="n", model="m", capabilities=Capabilities(features=frozenset(Feature)))


def request(**fields):
    base = {"request_id": "1", "prompt": Text("p"), "sampling": SamplingParams(max_tokens=4)}
    return GenerationRequest(**{**base, **fields})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ignore_eos", 1),
        ("skip_special_tokens", None),
        ("seed", 1.5),
        ("seed", np.int64(3)),
        ("max_tokens", 8.0),
        ("max_tokens", True),
        ("max_tokens", np.int32(8)),
        ("min_tokens", "1"),
        ("top_k", 2.5),
        ("temperature", "1"),
        ("temperature", True),
        ("top_p", None),
        ("logit_bias", {"5": 1.0}),
        ("logit_bias", {5: "1"}),
        ("logit_bias", [(5, 1.0)]),
        ("stop_token_ids", ("a",)),
        ("stop_token_ids", 7),
        ("stop", ("END", 7)),
        ("stop", 7),
        ("stop", np.array(["a", "b"])),
        ("stop_token_ids", np.array([1, 2])),
        ("seed", np.array([1, 2])),
    ],
)
def test_a_sampling_field_of_the_wrong_type_is_refused_by_its_name(field, value):
    sampling = replace(SamplingParams(max_tokens=4), **{field: value})
    with pytest.raises(InvalidRequest, match=field) as caught:
        check_request(request(sampling=sampling), INFO)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request_id", 7),
        ("logprobs", True),
        ("prompt_logprobs", 1.0),
        ("truncate_prompt_tokens", np.int64(4)),
        ("priority", 0.5),
        ("deadline_at", "soon"),
        ("delivery", "whole"),
        ("adapter", 1),
        ("resume_token_ids", (1, 2.0)),
        ("resume_token_ids", np.array([1, 2])),
        ("adapter", np.array(["a", "b"])),
        ("prompt", "plain"),
        ("prompt", Text(None)),
        ("prompt", TokenIds(tuple(np.array([5, 6])))),
        ("prompt", TokenIds((5, True))),
        ("sampling", {"max_tokens": 4}),
    ],
)
def test_a_field_of_a_request_of_the_wrong_type_is_refused_by_its_name(field, value):
    with pytest.raises(InvalidRequest, match=field) as caught:
        check_request(request(**{field: value}), INFO)
    assert caught.value.field == field


def test_a_numpy_number_is_named_as_what_it_is():
    with pytest.raises(InvalidRequest, match=r"numpy\.float64"):
        check_request(request(sampling=SamplingParams(max_tokens=4, temperature=np.float64(0.5))), INFO)


def test_one_string_for_stop_is_refused_with_the_tuple_to_write():
    with pytest.raises(InvalidRequest, match=r"write stop=\('END',\)"):
        check_request(request(sampling=SamplingParams(max_tokens=4, stop="END")), INFO)


def test_an_int_is_accepted_where_a_float_is_declared():
    sampling = SamplingParams(max_tokens=4, temperature=1, top_p=1, repetition_penalty=1, logit_bias={5: 1})
    check_request(request(sampling=sampling, deadline_at=9), INFO)
