"""What portable settings become for SGLang: flags that exist, values that it knows, command lines to the letter."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_contract import GOLDEN, context, contract, known_flags

from enginebay.backend import SettingOutcome
from enginebay.config.settings import EngineSettings
from enginebay.errors import ConfigError
from enginebay.models.cache import HOME_VARIABLE
from enginebay.plugins import compile_plan
from enginebay_sglang.plugin import SPEC, version
from enginebay_sglang.settings import compile_settings

IMAGE = "lmsysorg/sglang:v0.5.23"
EVERYTHING: Mapping[str, object] = {
    "tokenizer": "some/tokenizer", "revision": "main", "dtype": "bfloat16", "quantization": "fp8",
    "tensor_parallel_size": 2, "pipeline_parallel_size": 2, "data_parallel": 2, "max_num_seqs": 256,
    "max_model_len": 4096, "max_num_batched_tokens": 8192, "gpu_memory_fraction": 0.85, "kv_cache_dtype": "fp8",
    "enable_prefix_caching": False, "chunked_prefill": False, "speculative_eagle": "some/head", "seed": 7,
    "served_model_name": "small", "trust_remote_code": True, "log_level": "warning",
}  # fmt: skip
GOLDEN_CONTEXTS = {
    "plain": context(),
    "everything": context(settings=EVERYTHING, port=9000, deterministic=True),
    "two_gpus": context(settings={"tensor_parallel_size": 2, "max_num_seqs": 256}),
    "ngram": context(settings={"speculative_ngram": 8}),
    "docker": context(mode="docker", image=IMAGE, settings={"tensor_parallel_size": 2, "max_num_seqs": 256}),
    "docker_catalogue": context(model="smollm2-135m", mode="docker", image=IMAGE),
}

known_flags()  # read once, before hypothesis looks at the clock


@pytest.fixture(autouse=True)
def fixed_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, "/cache")
    monkeypatch.setenv("HF_HOME", "/hub")


def outcome_of(setting: str, value: object) -> SettingOutcome:
    [outcome] = compile_settings({setting: value}, None).outcomes
    return outcome


@pytest.mark.parametrize("name", GOLDEN_CONTEXTS)
def test_a_plan_is_the_command_that_was_read_and_approved(name: str) -> None:
    plan = compile_plan(SPEC, GOLDEN_CONTEXTS[name])
    assert "\n".join(map(shlex.quote, plan.command)) + "\n" == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_file_is_of_a_plan() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == GOLDEN_CONTEXTS.keys()


NAMES = st.sampled_from(["some/model", "other"])
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "tokenizer": NAMES, "revision": NAMES, "dtype": st.sampled_from(["auto", "float16", "bfloat16", "float32"]),
        "quantization": st.sampled_from(["int8", "fp8", "awq", "unheard-of"]), "data_parallel": st.integers(1, 4),
        "tensor_parallel_size": st.integers(1, 8), "pipeline_parallel_size": st.integers(1, 8),
        "max_num_seqs": st.integers(1, 512), "max_model_len": st.integers(1, 10**6),
        "max_num_batched_tokens": st.integers(1, 10**6), "gpu_memory_fraction": st.floats(0.1, 1.0),
        "kv_cache_dtype": st.sampled_from(["auto", "fp8", "bfloat16", "int4"]), "enable_prefix_caching": st.booleans(),
        "chunked_prefill": st.booleans(), "speculative_draft_model": NAMES, "speculative_ngram": st.integers(1, 64),
        "speculative_eagle": NAMES, "seed": st.integers(0, 2**31), "served_model_name": NAMES,
        "trust_remote_code": st.booleans(), "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
    },
)  # fmt: skip


@given(VALUES)
def test_every_setting_has_one_outcome_and_every_flag_exists(settings: dict[str, object]) -> None:
    plan = compile_settings(settings, None)
    assert [outcome.setting for outcome in plan.outcomes] == list(settings)
    assert {argument for argument in plan.arguments if argument.startswith("--")} <= known_flags()
    assert all(outcome.why for outcome in plan.outcomes if outcome.outcome != "mapped")


def test_flags_of_the_whole_command_exist_too() -> None:
    for name in ("plain", "everything", "two_gpus", "ngram"):
        command = compile_plan(SPEC, GOLDEN_CONTEXTS[name]).command
        assert {argument for argument in command if argument.startswith("--")} <= known_flags()


def test_all_portable_settings_are_known() -> None:
    for setting in EngineSettings.model_fields:
        assert compile_settings({setting: "1"}, None).outcomes


def test_the_choices_are_those_of_the_contract() -> None:
    for choice in contract()["launch"]["settings"]["kv_cache_dtype"]["choices"]:
        assert outcome_of("kv_cache_dtype", choice).outcome == "mapped"
    for choice in ("auto", "float16", "bfloat16", "float32"):
        assert choice in contract()["launch"]["settings"]["dtype"]["choices"]


def test_a_value_of_another_engine_is_explained_or_refused() -> None:
    assert outcome_of("quantization", "int8").becomes == "--quantization w8a8_int8"
    assert "compressed-tensors" in outcome_of("quantization", "eetq").why
    assert outcome_of("kv_cache_dtype", "fp8").outcome == "approximated"
    assert outcome_of("kv_cache_dtype", "q8_0").outcome == "unsupported"


def test_two_ways_of_drafting_are_one_too_many() -> None:
    assert len(compile_settings({"speculative_ngram": 4, "speculative_eagle": "x"}, None).unsupported) == 2


@pytest.mark.parametrize("setting", ["tokenizer", "speculative_draft_model", "speculative_eagle"])
def test_a_second_model_is_named_like_the_model_itself(setting: str, tmp_path: Path) -> None:
    places = {"hf:owner/name": "owner/name", "owner/name": "owner/name", str(tmp_path): str(tmp_path)}
    for source, place in places.items():
        assert place in compile_settings({setting: source}, None).arguments
    [catalogued] = [word for word in compile_settings({setting: "smollm2-135m"}, None).arguments if "smollm2" in word]
    assert catalogued.startswith("/cache/")
    refused = outcome_of(setting, "hf:owner/name@main")
    assert refused.outcome == "unsupported"
    assert "give hf:owner/name" in refused.why


def test_directories_of_settings_are_mounted_in_a_container(tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    draft.mkdir()
    settings = {"tokenizer": "hf:owner/name", "speculative_draft_model": str(draft)}
    plan = compile_plan(SPEC, context(mode="docker", image=IMAGE, settings=settings))
    assert f"{draft}:/settings/speculative_draft_model:ro" in plan.command
    assert ("--speculative-draft-model-path", "/settings/speculative_draft_model") in pairwise(plan.command)
    assert ("--tokenizer-path", "owner/name") in pairwise(plan.command)
    assert [outcome.value for outcome in plan.outcomes] == list(settings.values())


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("image", [None, "lmsysorg/sglang", "lmsysorg/sglang:latest-cu130", "host:5000/sglang:dev"])
def test_an_image_that_moves_is_refused(image: str | None) -> None:
    with pytest.raises(ConfigError, match="fixed version"):
        SPEC.check(context(mode="docker", image=image))


def test_a_pinned_image_is_taken_and_said_not_to_have_been_run() -> None:
    for image in (IMAGE, "lmsysorg/sglang@sha256:" + "a" * 64):
        SPEC.check(context(mode="docker", image=image))
    assert "was not run here" in compile_plan(SPEC, context(mode="docker", image=IMAGE)).notes[-1]


def test_the_release_is_read_from_the_tag_and_one_that_was_not_checked_is_said_to_be_so() -> None:
    assert version(context(mode="docker", image=IMAGE)) == "0.5.23"
    other = context(mode="docker", image="lmsysorg/sglang:v0.4.9-cu126")
    assert version(other) == "0.4.9"
    assert "0.4.9 was not checked" in compile_plan(SPEC, other).notes[0]


def test_a_key_that_every_user_of_the_machine_could_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="command line only"):
        SPEC.check(context(api_key="secret"))


def test_external_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="address of the server"):
        SPEC.check(context(mode="external"))
