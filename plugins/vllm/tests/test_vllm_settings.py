"""What portable settings become: flags that exist, values that the engine knows, command lines to the letter."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from enginebay.backend import BackendContext, LaunchPlan, SettingOutcome
from enginebay.clock import MonotonicClock
from enginebay.config.settings import EngineSettings
from enginebay.errors import ConfigError
from enginebay.plugins import compile_plan, get_backend
from enginebay_vllm import choices
from enginebay_vllm.command import release_of
from enginebay_vllm.plugin import enginebay_backend
from enginebay_vllm.settings import compile_settings

SPEC = enginebay_backend()
GOLDEN = Path(__file__).parent / "golden" / "0.32.0"
CONTRACT_FILE = Path(__file__).parents[3] / "tests/data/contracts/vllm.yaml"
CONTRACT: Mapping[str, Any] = YAML(typ="safe").load(CONTRACT_FILE.read_text(encoding="utf-8"))

READ_FROM_SOURCE = {
    "--scheduling-policy": "vllm/engine/arg_utils.py:1745",
    "--enable-auto-tool-choice": "vllm/entrypoints/launchers/cli_args.py:116",
    "--tool-call-parser": "vllm/entrypoints/launchers/cli_args.py:122",
    "--trust-request-chat-template": "vllm/entrypoints/launchers/cli_args.py:95",
}
"""Flags of 0.32.0 that the contract does not list, and where they are. The heavy tests ask the engine itself."""


def context(
    *, model: str = "smollm2-135m", settings: Mapping[str, object] | None = None, mode: Any = None, **options: object
) -> BackendContext:
    return BackendContext(
        name="vllm",
        model=model,
        options=SPEC.options_model(**options),
        settings=dict(settings or {}),
        clock=MonotonicClock(),
        mode=mode,
    )


def outcome_of(setting: str, value: object) -> SettingOutcome:
    [outcome] = compile_settings({setting: value}, None).outcomes
    return outcome


def known_flags() -> set[str]:
    launch = CONTRACT["launch"]
    flags: set[str] = set(READ_FROM_SOURCE)
    for setting in launch["settings"].values():
        flags |= {setting.get("flag"), setting.get("disable_flag"), *setting.get("aliases", [])} - {None}
        flags |= {related.split()[0] for related in setting.get("related", [])}
    return flags | {useful["flag"] for useful in launch["other_useful"] if "flag" in useful}


def flags_in(arguments: tuple[str, ...]) -> Iterator[str]:
    return (argument for argument in arguments if argument.startswith("--"))


def rendered(plan: LaunchPlan) -> str:
    """One argument on a line."""
    environment = [f"{name}={value}" for name, value in sorted(plan.environment.items())]
    return "\n".join([*environment, *map(shlex.quote, plan.command)]) + "\n"


# ---------------------------------------------------------------- golden command lines

LESSON = {"tensor_parallel_size": 2, "max_num_seqs": 256}
EVERYTHING: Mapping[str, object] = {
    "tokenizer": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "main", "dtype": "bfloat16", "quantization": "fp8",
    "tensor_parallel_size": 2, "pipeline_parallel_size": 2, "data_parallel": 2, "max_num_seqs": 256,
    "max_model_len": 4096, "max_num_batched_tokens": 8192, "gpu_memory_fraction": 0.85, "kv_cache_dtype": "fp8",
    "enable_prefix_caching": False, "chunked_prefill": False, "speculative_ngram": 4, "seed": 7,
    "served_model_name": "small", "trust_remote_code": True, "log_level": "warning",
}  # fmt: skip
GOLDEN_CONTEXTS = {
    "lesson": context(model="hf:meta-llama/Llama-2-7b-hf", settings=LESSON, port=8000),
    "lesson_docker": context(model="hf:meta-llama/Llama-2-7b-hf", settings=LESSON, mode="docker", port=8000),
    "demo": context(),
    "everything": context(settings=EVERYTHING),
    "draft_model": context(settings={"speculative_draft_model": "some/draft"}),
    "eagle": context(settings={"speculative_eagle": "some/head"}),
    "cpu": context(cpu_kv_cache_gib=4, omp_threads_bind="0-7", enforce_eager=True, dev_mode=True),
    "limits": context(
        max_queued_requests=64, max_queued_tokens=4096, max_logprobs=50, stream_interval=4,
        scheduling_policy="priority", tool_call_parser="hermes", trust_request_chat_template=True,
        extra_arguments=["--block-size", "32"],
    ),
    "docker_without_gpu": replace(context(mode="docker", gpus=None, api_key="k"), image="registry.test/vllm:v0.32.0"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN_CONTEXTS)
def test_a_plan_is_the_command_that_was_read_and_approved(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/hub")
    monkeypatch.setenv("ENGINEBAY_HOME", "/enginebay")
    plan = compile_plan(SPEC, GOLDEN_CONTEXTS[name])
    assert rendered(plan) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_file_is_of_a_plan() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(GOLDEN_CONTEXTS)


def test_the_lessons_command_has_its_two_settings_and_its_port() -> None:
    command = compile_plan(SPEC, GOLDEN_CONTEXTS["lesson"]).command
    assert command[:3] == ("vllm", "serve", "meta-llama/Llama-2-7b-hf")
    pairs = set(pairwise(command))
    assert {("--tensor-parallel-size", "2"), ("--max-num-seqs", "256"), ("--port", "8000")} <= pairs


# ---------------------------------------------------------------- flags and values

VALUES: Mapping[str, st.SearchStrategy[object]] = {
    "dtype": st.sampled_from(["auto", "float16", "bfloat16", "float32"]),
    "quantization": st.sampled_from([*choices.QUANTIZATION, "int8", "nonsense"]),
    "kv_cache_dtype": st.sampled_from([*choices.KV_CACHE_DTYPE, "int8", "nonsense"]),
    "gpu_memory_fraction": st.floats(0.01, 1.0),
    "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
    **dict.fromkeys(("enable_prefix_caching", "chunked_prefill", "trust_remote_code"), st.booleans()),
    **dict.fromkeys(
        ("tokenizer", "revision", "served_model_name", "speculative_draft_model", "speculative_eagle"),
        st.text(st.characters(categories=("L", "N")), min_size=1, max_size=9),
    ),
}
NUMBERS = st.integers(1, 2**31)
SETTINGS = st.fixed_dictionaries({}, optional={name: VALUES.get(name, NUMBERS) for name in EngineSettings.model_fields})


@given(SETTINGS)
def test_every_setting_has_one_outcome_and_every_flag_exists(settings: dict[str, object]) -> None:
    plan = compile_plan(SPEC, context(settings=settings))
    assert [outcome.setting for outcome in plan.outcomes] == list(settings)
    assert set(flags_in(plan.command)) <= known_flags()
    assert all(outcome.becomes for outcome in plan.outcomes if outcome.outcome != "unsupported")
    assert all(outcome.why for outcome in plan.outcomes if outcome.outcome != "mapped")


def test_all_portable_settings_are_known() -> None:
    assert set(compile_settings(EVERYTHING, None).keywords) >= {"max_num_seqs", "kv_cache_dtype", "speculative_config"}
    for name in EngineSettings.model_fields:
        assert compile_settings({name: EVERYTHING.get(name, "some/model")}, None).outcomes[0].setting == name


@pytest.mark.parametrize("setting", ["quantization", "kv_cache_dtype"])
def test_the_choices_are_those_of_the_contract(setting: str) -> None:
    known = {"quantization": choices.QUANTIZATION, "kv_cache_dtype": choices.KV_CACHE_DTYPE}[setting]
    assert list(known) == CONTRACT["launch"]["settings"][setting]["choices"]


def test_flags_of_options_exist_too() -> None:
    for golden in GOLDEN_CONTEXTS.values():
        own = set(golden.options.extra_arguments)
        command = compile_plan(SPEC, golden).command
        engine = command[command.index(golden.image or "vllm/vllm-openai:v0.32.0") :] if golden.mode else command
        assert set(flags_in(engine)) - own <= known_flags()


def test_int8_is_explained_and_not_passed_on() -> None:
    outcome = outcome_of("quantization", "int8")
    assert outcome.outcome == "approximated"
    assert outcome.becomes == "--quantization int8_per_channel_weight_only"
    assert "no method called int8" in outcome.why


@pytest.mark.parametrize(
    ("setting", "value", "suggestion"),
    [
        ("quantization", "gptqq", "did you mean 'gptq'?"),
        ("quantization", "compressed_tensors", "did you mean 'compressed-tensors'?"),
        ("kv_cache_dtype", "int8", "did you mean 'int8_per_token_head'?"),
        ("kv_cache_dtype", "fp8_e4m4", "did you mean 'fp8_e4m3'?"),
        ("kv_cache_dtype", "xyz", "it knows auto, float16"),
    ],
)
def test_an_unknown_value_is_refused_with_a_suggestion(setting: str, value: str, suggestion: str) -> None:
    outcome = outcome_of(setting, value)
    assert outcome.outcome == "unsupported"
    assert suggestion in outcome.why
    assert not compile_settings({setting: value}, None).arguments


def test_only_one_way_of_speculating_is_taken() -> None:
    plan = compile_settings({"speculative_ngram": 3, "speculative_eagle": "some/head"}, None)
    assert [outcome.outcome for outcome in plan.outcomes] == ["mapped", "unsupported"]
    assert "speculative_ngram is set too" in plan.outcomes[1].why
    assert json.loads(plan.arguments[1])["method"] == "ngram"


def test_arguments_and_keywords_say_the_same_of_speculation() -> None:
    plan = compile_settings({"speculative_draft_model": "some/draft"}, None)
    assert json.loads(plan.arguments[1]) == plan.keywords["speculative_config"]


@pytest.mark.parametrize("setting", ["tokenizer", "speculative_draft_model", "speculative_eagle"])
def test_a_second_model_is_named_like_the_model_itself(setting: str, tmp_path: Path) -> None:
    places = {"hf:owner/name": "owner/name", "owner/name": "owner/name", str(tmp_path): str(tmp_path)}
    for source, place in places.items():
        plan = compile_settings({setting: source}, None)
        assert told(plan, setting) == place
        assert place in plan.arguments[1]
    assert Path(told(compile_settings({setting: "smollm2-135m"}, None), setting)).is_absolute()
    refused = outcome_of(setting, "hf:owner/name@main")
    assert refused.outcome == "unsupported"
    assert "give hf:owner/name" in refused.why
    compile_plan(SPEC, context(settings={setting: "hf:owner/name@main"}))


def told(plan: LaunchPlan, setting: str) -> str:
    keywords: Mapping[str, Any] = plan.keywords
    return keywords["tokenizer"] if setting == "tokenizer" else keywords["speculative_config"]["model"]


def test_directories_of_settings_are_mounted_in_a_container(tmp_path: Path) -> None:
    settings = {"tokenizer": "hf:owner/name", "speculative_eagle": str(tmp_path)}
    plan = compile_plan(SPEC, context(mode="docker", settings=settings))
    assert f"{tmp_path}:/settings/speculative_eagle:ro" in plan.command
    config = json.loads(plan.command[plan.command.index("--speculative-config") + 1])
    assert config["model"] == "/settings/speculative_eagle"
    assert ("--tokenizer", "owner/name") in pairwise(plan.command)
    assert [outcome.value for outcome in plan.outcomes] == list(settings.values())


def test_a_release_that_was_not_checked_is_said_to_be_so() -> None:
    assert compile_settings({}, "0.32.1").notes == ()
    [note] = compile_settings({}, "0.40.0").notes
    assert "0.40.0 was not checked" in note


# ---------------------------------------------------------------- where it runs


def test_the_api_key_is_on_no_command_line_and_in_no_plan() -> None:
    for mode in ("managed", "docker", "in_process"):
        plan = compile_plan(SPEC, context(mode=mode, api_key="very-secret"))
        assert "very-secret" not in repr(plan)


def test_a_model_that_is_here_is_not_looked_for_on_the_hub() -> None:
    assert compile_plan(SPEC, context()).environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in compile_plan(SPEC, context(model="hf:a/b")).environment
    assert "HF_HUB_OFFLINE" not in compile_plan(SPEC, context(settings={"tokenizer": "a/b"})).environment


def test_in_process_keywords_have_no_command() -> None:
    plan = compile_plan(SPEC, context(mode="in_process", settings=LESSON, enforce_eager=True))
    assert plan.command == ()
    assert [outcome.becomes for outcome in plan.outcomes] == ["tensor_parallel_size=2", "max_num_seqs=256"]
    assert plan.keywords["tensor_parallel_size"] == 2
    assert plan.keywords["served_model_name"] == ["smollm2-135m"]
    assert plan.keywords["enforce_eager"] is True


@pytest.mark.parametrize("image", ["vllm/vllm-openai", "vllm/vllm-openai:latest-cu130", "host:5000/vllm-openai"])
def test_an_image_that_moves_is_refused(image: str) -> None:
    with pytest.raises(ConfigError, match="another image every week"):
        get_backend("vllm", mode="docker", image=image)


@pytest.mark.parametrize(
    ("image", "release"),
    [
        ("vllm/vllm-openai:v0.32.0", "0.32.0"),
        ("host:5000/vllm:v0.31.2-cu129", "0.31.2"),
        ("vllm/vllm-openai:nightly", None),
        (None, None),
    ],
)
def test_the_release_is_read_from_the_tag(image: str | None, release: str | None) -> None:
    assert release_of(image) == release


def test_a_pinned_image_is_taken_and_said_not_to_have_been_run() -> None:
    get_backend("vllm", mode="docker", image="vllm/vllm-openai@sha256:" + "0" * 64)
    plan = compile_plan(SPEC, context(mode="docker"))
    assert "vllm/vllm-openai:v0.32.0" in plan.command
    assert any("not run by us" in note for note in plan.notes)


def test_external_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="needs the address"):
        get_backend("vllm", mode="external")
