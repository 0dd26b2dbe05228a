"""What portable settings become for llama-server: flags that exist, and command lines to the letter."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_cpp_contract import GOLDEN, context, known_flags

from enginebay.backend import BackendContext, SettingOutcome
from enginebay.config.settings import EngineSettings
from enginebay.errors import ConfigError
from enginebay.models.cache import HOME_VARIABLE
from enginebay.plugins import compile_plan
from enginebay_llama_cpp.plugin import SPEC, version
from enginebay_llama_cpp.settings import compile_settings

EVERYTHING: Mapping[str, object] = {
    "max_num_seqs": 8, "max_model_len": 4096, "max_num_batched_tokens": 1024, "kv_cache_dtype": "q8_0",
    "enable_prefix_caching": False, "chunked_prefill": True, "speculative_ngram": 4, "seed": 7,
    "served_model_name": "small", "trust_remote_code": False, "log_level": "warning", "dtype": "auto",
    "tensor_parallel_size": 2, "pipeline_parallel_size": 1, "data_parallel": 1,
}  # fmt: skip
GOLDEN_CONTEXTS = {
    "demo": context(settings={"max_num_seqs": 8, "max_model_len": 1024}, num_threads=2),
    "everything": context(model="hf:owner/model-GGUF", settings=EVERYTHING, hub_quantization="Q4_K_M", port=9000),
    "pipeline": context(model="hf:owner/model-GGUF", settings={"pipeline_parallel_size": 2}, num_gpu_layers=99),
    "docker": context(model="hf:owner/model-GGUF", mode="docker", settings={"max_num_seqs": 4}, port=8080),
    "docker_without_gpu": context(mode="docker", gpus=None, version="b9000"),
}

known_flags()  # read once, before hypothesis looks at the clock


@pytest.fixture(autouse=True)
def fixed_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, "/cache")
    monkeypatch.setenv("HF_HOME", "/hub")


def outcome_of(setting: str, value: object, **others: object) -> SettingOutcome:
    outcomes = compile_settings({setting: value, **others}, None).outcomes
    return next(outcome for outcome in outcomes if outcome.setting == setting)


@pytest.mark.parametrize("name", GOLDEN_CONTEXTS)
def test_a_plan_is_the_command_that_was_read_and_approved(name: str) -> None:
    plan = compile_plan(SPEC, GOLDEN_CONTEXTS[name])
    assert "\n".join(map(shlex.quote, plan.command)) + "\n" == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_file_is_of_a_plan() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == GOLDEN_CONTEXTS.keys()


PATHS = st.sampled_from(["draft.gguf", "some/model"])
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "tokenizer": PATHS, "revision": PATHS, "dtype": st.sampled_from(["auto", "float16", "bfloat16", "float32"]),
        "quantization": st.sampled_from(["int8", "fp8"]), "tensor_parallel_size": st.integers(1, 8),
        "pipeline_parallel_size": st.integers(1, 8), "data_parallel": st.integers(1, 4),
        "max_num_seqs": st.integers(1, 512), "max_model_len": st.integers(1, 10**6),
        "max_num_batched_tokens": st.integers(1, 10**6), "gpu_memory_fraction": st.floats(0.1, 1.0),
        "kv_cache_dtype": st.sampled_from(["auto", "fp8", "bfloat16", "q4_0"]), "enable_prefix_caching": st.booleans(),
        "chunked_prefill": st.booleans(), "speculative_draft_model": PATHS, "speculative_ngram": st.integers(1, 64),
        "speculative_eagle": PATHS, "seed": st.integers(-(2**40), 2**40), "served_model_name": PATHS,
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
    for name in ("demo", "everything", "pipeline"):
        command = compile_plan(SPEC, GOLDEN_CONTEXTS[name]).command
        assert {argument for argument in command if argument.startswith("--")} <= known_flags()


def test_all_portable_settings_are_known() -> None:
    for setting in EngineSettings.model_fields:
        assert compile_settings({setting: "1" if "level" not in setting else "info"}, None).outcomes


def test_the_context_is_multiplied_by_the_slots_that_share_it() -> None:
    outcome = outcome_of("max_model_len", 4096, max_num_seqs=8)
    assert (outcome.outcome, outcome.becomes) == ("approximated", "--ctx-size 32768")
    assert "share" in outcome_of("max_model_len", 4096).why


def test_a_context_is_rounded_up_to_what_the_server_makes_of_it_and_said_to_be_so() -> None:
    outcome = outcome_of("max_model_len", 1000, max_num_seqs=3)
    assert (outcome.outcome, outcome.becomes) == ("approximated", "--ctx-size 3072")
    assert outcome.why.startswith("1024 tokens for each of the 3 slots")
    assert outcome.why.endswith("steps of 256: 1024 instead of 1000")
    assert outcome_of("max_model_len", 1000).becomes == "--ctx-size 1024"
    assert "instead" not in outcome_of("max_model_len", 1024, max_num_seqs=3).why


def test_types_of_the_cache_are_those_of_the_engine() -> None:
    assert outcome_of("kv_cache_dtype", "bfloat16").becomes == "--cache-type-k bf16 --cache-type-v bf16"
    assert "iq4_nl" in outcome_of("kv_cache_dtype", "fp8").why


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, "pipeline_parallel_size"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"quantization": "fp8"}, "quantization"),
        ({"speculative_draft_model": "some/model"}, "speculative_draft_model"),
        ({"served_model_name": "a,b"}, "served_model_name"),
        ({"data_parallel": 2}, "data_parallel"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(settings: dict[str, object], refused: str) -> None:
    assert [outcome.setting for outcome in compile_settings(settings, None).unsupported] == [refused]


def test_two_ways_of_drafting_are_one_too_many() -> None:
    plan = compile_settings({"speculative_ngram": 4, "speculative_draft_model": "draft.gguf"}, None)
    assert len(plan.unsupported) == 2


# ---------------------------------------------------------------- the command


def docker(image: str) -> BackendContext:
    return context(model="hf:owner/model-GGUF", mode="docker", image=image)


def test_an_image_that_moves_is_refused() -> None:
    for image in ("ghcr.io/ggml-org/llama.cpp:server", "ghcr.io/ggml-org/llama.cpp", "llama.cpp:latest"):
        with pytest.raises(ConfigError, match="another one tomorrow"):
            SPEC.check(docker(image))
    SPEC.check(docker("ghcr.io/ggml-org/llama.cpp:server-cuda-b11434"))
    SPEC.check(docker("ghcr.io/ggml-org/llama.cpp@sha256:" + "a" * 64))


def test_the_build_is_read_from_the_tag_and_one_that_was_not_checked_is_said_to_be_so() -> None:
    found = docker("ghcr.io/ggml-org/llama.cpp:server-b9999")
    assert version(found) == "b9999"
    assert "b9999 was not checked" in compile_plan(SPEC, found).notes[0]


def test_the_api_key_is_on_no_command_line() -> None:
    plan = compile_plan(SPEC, context(model="hf:owner/model-GGUF", mode="docker", api_key="not-shown"))
    assert "LLAMA_API_KEY" in plan.command
    assert "not-shown" not in repr(plan)


def test_a_directory_without_a_gguf_file_is_refused_with_the_way_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"model: .*convert_hf_to_gguf\.py"):
        SPEC.check(context(model=str(tmp_path)))


def test_a_file_of_the_options_goes_before_the_model(tmp_path: Path) -> None:
    (tmp_path / "own.gguf").touch()
    command = compile_plan(SPEC, context(gguf=str(tmp_path / "own.gguf"))).command
    assert command[:3] == ("llama-server", "--model", str(tmp_path / "own.gguf"))


def test_external_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="address of the server"):
        SPEC.check(context(mode="external"))
