from dataclasses import fields, replace

import msgspec
import pytest
from loadtest_fakes import planned, small_plan

from enginebay.errors import LoadTestError
from enginebay.loadtest.plan import Load, Plan, canonical_json, load_plan, save_plan
from enginebay.types import SamplingParams, Text, TokenIds


def changed(plan: Plan, **request_changes) -> Plan:
    """The plan with one field of its second request changed."""
    [load] = plan.loads
    requests = list(load.requests)
    requests[1] = msgspec.structs.replace(requests[1], **request_changes)
    return msgspec.structs.replace(plan, loads=(msgspec.structs.replace(load, requests=tuple(requests)),))


def test_equal_plans_have_equal_hashes() -> None:
    assert small_plan().sha256 == small_plan().sha256
    assert len(small_plan().sha256) == 64


OTHER_SAMPLING = {
    "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1,
    "presence_penalty": 0.1, "frequency_penalty": 0.1, "logit_bias": {5: 1.0}, "stop": ("x",),
    "include_stop_str_in_output": True, "stop_token_ids": (4,), "ignore_eos": False, "min_tokens": 1, "seed": 9,
    "skip_special_tokens": False,
}  # fmt: skip


def test_the_hash_covers_every_sampling_field_there_is() -> None:
    assert set(OTHER_SAMPLING) == {field.name for field in fields(SamplingParams)}


@pytest.mark.parametrize("field", OTHER_SAMPLING)
def test_any_changed_sampling_field_gives_another_hash(field: str) -> None:
    plan = small_plan()
    sampling = replace(plan.loads[0].requests[1].sampling, **{field: OTHER_SAMPLING[field]})
    assert changed(plan, sampling=sampling).sha256 != plan.sha256


@pytest.mark.parametrize(
    "change", [{"text": "other"}, {"offset_s": 0.5}, {"num_prompt_tokens": 4}, {"token_ids": (1,)}]
)
def test_any_changed_request_gives_another_hash(change) -> None:
    assert changed(small_plan(), **change).sha256 != small_plan().sha256


def test_load_warm_up_model_and_seed_are_part_of_the_hash() -> None:
    hashes = {
        small_plan().sha256,
        small_plan(loads=[Load(users=3)]).sha256,
        small_plan(num_warmup=1).sha256,
        msgspec.structs.replace(small_plan(), model="other").sha256,
        msgspec.structs.replace(small_plan(), seed=1).sha256,
    }
    assert len(hashes) == 5


def test_a_saved_plan_comes_back_with_its_hash(tmp_path) -> None:
    plan = changed(small_plan(), sampling=SamplingParams(max_tokens=3, logit_bias={50: 0.25}, stop=("é",)))
    save_plan(plan, tmp_path / "deep" / "plan.json")
    again = load_plan(tmp_path / "deep" / "plan.json")
    assert again == plan
    assert again.sha256 == plan.sha256
    assert (tmp_path / "deep" / "plan.json").read_bytes() == canonical_json(plan)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["plan.json"]


@pytest.mark.parametrize("content", ["", "{}", '{"version": 1, "surprise": 2}', "[1]"])
def test_a_file_that_is_no_plan_is_refused_by_name(tmp_path, content: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(LoadTestError, match=r"plan\.json"):
        load_plan(path)


def test_a_missing_plan_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(LoadTestError, match=r"nowhere\.json.*No such file"):
        load_plan(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "fields_of_load",
    [
        {},
        {"users": 1, "rate": 1.0},
        {"users": 0},
        {"rate": -1.0, "arrivals": "poisson"},
        {"rate": 1.0},
        {"users": 1, "arrivals": "poisson"},
    ],
)
def test_a_load_that_makes_no_sense_is_refused(fields_of_load) -> None:
    with pytest.raises(LoadTestError):
        Load(**fields_of_load)


def test_a_planned_request_carries_everything_into_the_request() -> None:
    request = planned(7, max_tokens=5).to_request("id")
    assert request.prompt == Text("7 words here")
    assert request.sampling == planned(7, max_tokens=5).sampling
    assert msgspec.structs.replace(planned(7), text=None, token_ids=(1, 2)).prompt == TokenIds((1, 2))
