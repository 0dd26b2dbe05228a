"""Portable settings as flags and environment of the launcher, and the commands that they end in."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tgi_contract import GOLDEN, context, contract, known_flags, known_variables

from enginebay.backend import LaunchPlan, Mode, SettingOutcome
from enginebay.config.settings import EngineSettings
from enginebay.errors import ConfigError
from enginebay.plugins import build_backend, check_context, compile_plan, find_backend
from enginebay.testing.simulators import INSTANT, find_wire
from enginebay_tgi.options import TgiOptions
from enginebay_tgi.settings import QUANTIZATIONS, compile_settings

SPEC = find_backend("tgi")
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "tokenizer": st.just("other"),
        "revision": st.just("main"),
        "dtype": st.sampled_from(["auto", "float16", "bfloat16", "float32"]),
        "quantization": st.sampled_from([*QUANTIZATIONS, "int8", "nonsense", "bitsandbytes_nf4"]),
        "tensor_parallel_size": st.integers(1, 8),
        "pipeline_parallel_size": st.integers(1, 2),
        "data_parallel": st.integers(1, 2),
        "max_num_seqs": st.integers(1, 512),
        "max_model_len": st.integers(2, 32_768),
        "max_num_batched_tokens": st.integers(1, 32_768),
        "gpu_memory_fraction": st.sampled_from([0.5, 1.0]),
        "kv_cache_dtype": st.sampled_from(["auto", "fp8", "fp8_e4m3", "fp8_e5m2", "int4"]),
        "enable_prefix_caching": st.booleans(),
        "chunked_prefill": st.booleans(),
        "speculative_draft_model": st.just("small"),
        "speculative_ngram": st.integers(1, 8),
        "speculative_eagle": st.just("head"),
        "seed": st.just(1),
        "served_model_name": st.just("name"),
        "trust_remote_code": st.booleans(),
        "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
    },
)


def outcome(setting: str, value: object, **others: object) -> SettingOutcome:
    plan = compile_settings({setting: value, **others}, None)
    return next(found for found in plan.outcomes if found.setting == setting)


def test_every_portable_setting_is_known() -> None:
    everything: dict[str, object] = dict.fromkeys(EngineSettings.model_fields, "1")
    plan = compile_settings(everything, None)
    assert [found.setting for found in plan.outcomes] == list(EngineSettings.model_fields)


@hypothesis.settings(deadline=None)
@given(SETTINGS)
def test_every_setting_has_one_outcome_and_every_flag_stands_in_the_contract(settings: dict[str, object]) -> None:
    plan = compile_settings(settings, "3.3.7")
    assert [found.setting for found in plan.outcomes] == list(settings)
    assert {word for word in plan.arguments if word.startswith("--")} <= known_flags()
    assert set(plan.environment) <= known_variables()
    for found in plan.outcomes:
        assert found.becomes if found.outcome != "unsupported" else found.why
        assert found.why if found.outcome == "approximated" else True


@given(SETTINGS, st.sampled_from(["managed", "docker"]))
def test_every_flag_of_a_whole_command_stands_in_the_contract(settings: dict[str, object], mode: Mode) -> None:
    plan = compile_plan(SPEC, context(settings=settings, mode=mode, enable_prefill_logprobs=True))
    start = plan.command.index("--model-id")
    assert {word for word in plan.command[start:] if word.startswith("-")} <= known_flags()


@given(SETTINGS)
def test_the_simulator_takes_every_compiled_flag(settings: dict[str, object]) -> None:
    """It refuses what the launcher refuses; how long prompts may be, the model says where no setting does."""
    if "max_model_len" not in settings:
        settings.pop("max_num_batched_tokens", None)
    plan = compile_settings(settings, None)
    wire = find_wire("tgi")
    launch = wire.configure(wire.flags.parse(["--model-id", "m", *plan.arguments], plan.environment), INSTANT)
    asked = settings.get("max_model_len")
    assert asked is None or launch.profile.max_model_len == asked


@pytest.mark.parametrize(
    ("setting", "value", "becomes"),
    [
        ("dtype", "bfloat16", "--dtype bfloat16"),
        ("dtype", "auto", "nothing: the checkpoint's own"),
        ("revision", "v1", "--revision v1"),
        ("quantization", "awq", "--quantize awq"),
        ("quantization", "compressed_tensors", "--quantize compressed-tensors"),
        ("tensor_parallel_size", 2, "--num-shard 2"),
        ("pipeline_parallel_size", 1, "nothing: one is all TGI has"),
        ("max_model_len", 4096, "--max-total-tokens 4096"),
        ("gpu_memory_fraction", 0.9, "--cuda-memory-fraction 0.9"),
        ("kv_cache_dtype", "fp8", "--kv-cache-dtype fp8_e4m3fn"),
        ("enable_prefix_caching", False, "PREFIX_CACHING=0"),
        ("chunked_prefill", True, "PREFILL_CHUNKING=1"),
        ("speculative_ngram", 3, "--speculate 3"),
        ("trust_remote_code", True, "--trust-remote-code"),
        ("log_level", "warning", "LOG_LEVEL=warn"),
    ],
)
def test_what_tgi_has_is_mapped(setting: str, value: object, becomes: str) -> None:
    found = outcome(setting, value)
    assert (found.outcome, found.becomes) == ("mapped", becomes)


@pytest.mark.parametrize(
    ("setting", "value", "becomes", "why"),
    [
        ("max_num_seqs", 256, "--max-concurrent-requests 256", "admission"),
        ("max_num_batched_tokens", 8192, "--max-batch-prefill-tokens 8192", "prefill"),
        ("quantization", "int8", "--quantize eetq", "EETQ"),
    ],
)
def test_what_tgi_has_nearly_is_approximated_and_explained(setting: str, value: object, becomes: str, why: str) -> None:
    found = outcome(setting, value)
    assert (found.outcome, found.becomes) == ("approximated", becomes)
    assert why in found.why


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("dtype", "float32"), ("quantization", "int3"), ("pipeline_parallel_size", 2), ("data_parallel", 2),
        ("kv_cache_dtype", "int8"), ("speculative_draft_model", "m"), ("speculative_eagle", "m"), ("seed", 1),
        ("served_model_name", "m"), ("tokenizer", "m"),
    ],
)  # fmt: skip
def test_what_tgi_lacks_is_refused_before_anything_starts(setting: str, value: object) -> None:
    found = outcome(setting, value)
    assert found.outcome == "unsupported"
    assert found.why
    with pytest.raises(ConfigError, match=f"engine.{setting}"):
        build_backend(SPEC, context(settings={setting: value}))


def test_a_dtype_beside_a_quantization_is_refused_as_the_launcher_would() -> None:
    assert outcome("dtype", "float16", quantization="awq").outcome == "unsupported"
    assert outcome("dtype", "auto", quantization="awq").outcome == "mapped"


def test_exl2_is_not_spread_over_gpus() -> None:
    assert outcome("quantization", "exl2", tensor_parallel_size=2).outcome == "unsupported"
    assert outcome("quantization", "exl2", tensor_parallel_size=1).outcome == "mapped"


def test_a_prefill_budget_below_the_longest_prompt_is_raised_to_it() -> None:
    found = outcome("max_num_batched_tokens", 2048, max_model_len=4096)
    assert found.becomes == "--max-batch-prefill-tokens 4095"
    assert "Raised" in found.why


@pytest.mark.parametrize(
    ("setting", "choices"), [("quantization", "quantization"), ("kv_cache_dtype", "kv_cache_dtype")]
)
def test_the_choices_are_the_contracts(setting: str, choices: str) -> None:
    for choice in contract()["launch"]["settings"][choices]["choices"]:
        assert outcome(setting, choice).outcome == "mapped"


# ---------------------------------------------------------------- commands


def shown(plan: LaunchPlan) -> str:
    """One line for the environment, then the command, a flag a line."""
    lines = [f"{name}={value}" for name, value in plan.environment.items()]
    words = shlex.join(plan.command)
    return "\n".join([*lines, re.sub(r" (?=--?[a-z])", " \\\\\n  ", words)]) + "\n"


GOLDENS: dict[str, LaunchPlan] = {
    "lesson_docker": compile_plan(SPEC, context(settings={"tensor_parallel_size": 2}, port=8080)),
    "docker_everything": compile_plan(
        SPEC,
        context(
            settings={
                "dtype": "bfloat16", "tensor_parallel_size": 2, "max_num_seqs": 256, "max_model_len": 4096,
                "max_num_batched_tokens": 8192, "gpu_memory_fraction": 0.9, "enable_prefix_caching": False,
                "chunked_prefill": True, "speculative_ngram": 3, "log_level": "warning", "revision": "main",
            },
            image="ghcr.io/huggingface/text-generation-inference:3.3.7",
            port=8080,
            api_key="secret",
            environment={"HF_TOKEN": "hf_secret"},
        ),
    ),
    "managed": compile_plan(
        SPEC,
        context(settings={"max_model_len": 4096, "quantization": "int8"}, mode="managed", port=3000),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDENS)
def test_the_command_is_the_golden_one(name: str) -> None:
    assert shown(GOLDENS[name]) == (GOLDEN / f"{name}.txt").read_text()


def test_the_lessons_command_is_there_word_for_word_but_for_the_pinned_image_and_the_loopback() -> None:
    command = GOLDENS["lesson_docker"].command
    lesson = ["docker", "run", "--gpus", "all", "--shm-size", "1g", "-p", "8080:80", "--model-id", "--num-shard", "2"]
    words = [word.removeprefix("127.0.0.1:") for word in command]
    positions = [words.index(word) for word in lesson]
    assert positions == sorted(positions)
    assert "ghcr.io/huggingface/text-generation-inference:3.3.7" in words


def test_a_plan_without_an_image_says_that_its_tag_is_not_verified() -> None:
    assert any("not verified" in note for note in GOLDENS["lesson_docker"].notes)
    assert not any("not verified" in note for note in GOLDENS["docker_everything"].notes)


def test_no_secret_stands_in_a_command() -> None:
    whole = shown(GOLDENS["docker_everything"])
    assert "secret" not in whole
    assert "-e API_KEY" in whole


@pytest.mark.parametrize(
    "image",
    [
        "ghcr.io/huggingface/text-generation-inference",
        "ghcr.io/huggingface/text-generation-inference:latest",
        "ghcr.io/huggingface/text-generation-inference:latest-rocm",
        "registry:5000/tgi",
    ],
)
def test_an_image_that_is_not_pinned_is_refused(image: str) -> None:
    with pytest.raises(ConfigError, match="not pinned"):
        check_context(SPEC, context(image=image))


@pytest.mark.parametrize("image", ["tgi:3.3.5-rocm", "registry:5000/tgi:3.3.7", f"tgi@sha256:{'0' * 64}"])
def test_a_pinned_image_is_taken(image: str) -> None:
    check_context(SPEC, context(image=image))


def test_the_version_comes_from_the_options_or_the_tag() -> None:
    assert SPEC.version(context(version="3.3.6")) == "3.3.6"
    assert SPEC.version(context(image="ghcr.io/huggingface/text-generation-inference:3.3.5")) == "3.3.5"
    assert SPEC.version(context()) is None


def test_a_release_whose_flags_were_not_checked_is_noted_and_one_with_other_flags_refused() -> None:
    assert any("3.3.5 was not checked" in note for note in compile_settings({}, "3.3.5").notes)
    with pytest.raises(ConfigError, match="other flags"):
        check_context(SPEC, context(image="ghcr.io/huggingface/text-generation-inference:2.4.0"))


def test_an_external_server_needs_an_address() -> None:
    options = TgiOptions()
    with pytest.raises(ConfigError, match="address"):
        check_context(SPEC, replace(context(mode="external"), options=options))
