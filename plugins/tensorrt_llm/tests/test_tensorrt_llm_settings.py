"""What portable settings become: flags of the contract, keys of the options file, command lines to the letter."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML
from tensorrt_llm_simulator import GOLDEN, context, contract

from enginebay.backend import BackendContext, LaunchPlan
from enginebay.config.settings import EngineSettings
from enginebay.errors import ConfigError
from enginebay.plugins import compile_plan, get_backend
from enginebay_tensorrt_llm.command import compile_settings, launch
from enginebay_tensorrt_llm.engine_settings import QUANT_ALGOS, compile_engine
from enginebay_tensorrt_llm.engine_settings import RULES as ENGINE_RULES
from enginebay_tensorrt_llm.options import TensorrtLlmOptions
from enginebay_tensorrt_llm.plugin import EVIDENCE, enginebay_backend
from enginebay_tensorrt_llm.releases import LINES, line_of
from enginebay_tensorrt_llm.settings import RULES, compile_pytorch

SPEC = enginebay_backend()
LESSON = {"max_num_seqs": 256}
LESSON_ENGINE: dict[str, Any] = {
    "path": "engine", "engine_directory": "/engines/llama-2-7b", "max_input_len": 2048, "max_output_len": 512,
}  # fmt: skip
EVERYTHING: dict[str, object] = {
    "tokenizer": "/models/tokenizer", "revision": "main", "dtype": "bfloat16", "tensor_parallel_size": 2,
    "pipeline_parallel_size": 1, "data_parallel": 2, "max_num_seqs": 64, "max_model_len": 4096,
    "max_num_batched_tokens": 8192, "gpu_memory_fraction": 0.85, "kv_cache_dtype": "fp8",
    "enable_prefix_caching": True, "chunked_prefill": True, "speculative_ngram": 5, "seed": 7,
    "served_model_name": "llama", "trust_remote_code": True, "log_level": "debug",
}  # fmt: skip


def docker(settings: Mapping[str, object], **options: Any) -> BackendContext:
    return context(settings, mode="docker", cache_directory="/cache", **options)


GOLDENS: Mapping[str, Callable[[], BackendContext]] = {
    "1.2.1/lesson_pytorch": lambda: context(LESSON | {"max_model_len": 2560}),
    "1.2.1/lesson_pytorch_docker": lambda: docker(LESSON | {"max_model_len": 2560}),
    "1.2.1/lesson_engine": lambda: context(LESSON, **LESSON_ENGINE),
    "1.2.1/lesson_engine_triton": lambda: docker(LESSON, api="triton", **LESSON_ENGINE),
    "1.2.1/everything": lambda: context(EVERYTHING),
    "1.2.1/engine_quantised_on_two": lambda: context(
        {
            "quantization": "fp8", "kv_cache_dtype": "fp8", "tensor_parallel_size": 2, "max_num_seqs": 32,
            "enable_prefix_caching": True, "chunked_prefill": True, "gpu_memory_fraction": 0.8,
        },
        api="triton", **LESSON_ENGINE,
    ),
    "1.2.1/draft_model": lambda: context({"speculative_draft_model": "/models/draft"}, num_draft_tokens=6),
    "1.2.1/eagle": lambda: context({"speculative_eagle": "/models/eagle"}, guided_decoding_backend="xgrammar"),
    "1.3.0/everything": lambda: context(EVERYTHING, version="1.3.0", tool_parser="qwen3"),
    "1.3.0/everything_docker": lambda: docker(EVERYTHING, version="1.3.0rc5"),
}  # fmt: skip


def rendered(plan: LaunchPlan) -> str:
    parts = [shlex.join(plan.command), *(f"# note: {note}" for note in plan.notes)]
    parts += [f"# {name}\n{content.rstrip()}" for name, content in plan.files.items()]
    return "\n\n".join(parts) + "\n"


@pytest.mark.parametrize("name", GOLDENS)
def test_a_plan_is_to_the_letter_what_its_golden_file_says(name: str) -> None:
    assert rendered(compile_plan(SPEC, GOLDENS[name]())) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {str(path.relative_to(GOLDEN).with_suffix("")) for path in GOLDEN.rglob("*.txt")} == set(GOLDENS)


# ---------------------------------------------------------------- flags and keys exist


contract()  # read once, before hypothesis looks at the clock


def known_flags() -> set[str]:
    launch = contract()["launch"]
    text = json.dumps([launch["settings"], launch["other_useful"], launch["options_file"]])
    return set(re.findall(r"--[a-z][a-z_]+", text))


def known_keys() -> set[str]:
    launch = contract()["launch"]
    settings = [entry for entry in launch["settings"].values() if isinstance(entry, dict)]
    keys = {entry["yaml"] for entry in settings if entry.get("yaml")}
    keys |= {f"speculative_config.{field}" for entry in settings for field in entry.get("yaml_fields", {})}
    return keys | {entry["key"] for entry in launch["yaml_useful"]} | {"kv_cache_config.free_gpu_memory_fraction"}


def flat(tree: Mapping[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "tokenizer": st.just("/models/t"),
        "revision": st.just("main"),
        "dtype": st.sampled_from(["auto", "float16", "bfloat16", "float32"]),
        "quantization": st.sampled_from(["fp8", "int8", "awq", "nonsense"]),
        "tensor_parallel_size": st.integers(1, 8),
        "pipeline_parallel_size": st.integers(1, 4),
        "data_parallel": st.integers(1, 4),
        "max_num_seqs": st.integers(1, 4096),
        "max_model_len": st.integers(1, 131072),
        "max_num_batched_tokens": st.integers(1, 65536),
        "gpu_memory_fraction": st.floats(0.1, 1.0),
        "kv_cache_dtype": st.sampled_from(["auto", "fp8", "fp8_e4m3", "fp8_e5m2", "nvfp4", "int8"]),
        "enable_prefix_caching": st.booleans(),
        "chunked_prefill": st.booleans(),
        "speculative_draft_model": st.just("/models/d"),
        "speculative_ngram": st.integers(1, 10),
        "speculative_eagle": st.just("/models/e"),
        "seed": st.integers(0, 2**31),
        "served_model_name": st.just("m"),
        "trust_remote_code": st.booleans(),
        "log_level": st.sampled_from(["debug", "info", "warning", "error"]),
    },
)


@given(settings=SETTINGS, line=st.sampled_from(LINES))
def test_every_flag_and_key_that_is_emitted_is_in_the_contract(settings: dict[str, object], line: Any) -> None:
    compiled = compile_pytorch(settings, line=line, num_draft_tokens=4)
    assert {flag for flag in compiled.flags if flag.startswith("--")} <= known_flags()
    assert flat(compiled.file) <= known_keys()
    assert flat(compiled.keywords) <= known_keys() | {"tokenizer", "trust_remote_code"}


@given(settings=SETTINGS, api=st.sampled_from(["openai", "triton"]), line=st.sampled_from(LINES))
def test_every_setting_has_one_outcome_on_either_path(settings: dict[str, object], api: str, line: Any) -> None:
    compiled = compile_pytorch(settings, line=line, num_draft_tokens=4)
    for outcomes in (compiled.outcomes, compiled.in_process_outcomes, compile_engine(settings, api=api).outcomes):
        assert [outcome.setting for outcome in outcomes] == list(settings)
        for outcome in outcomes:
            assert outcome.becomes or outcome.outcome == "unsupported"
            assert outcome.why or outcome.outcome == "mapped"


@given(settings=SETTINGS)
def test_what_is_launched_is_what_was_compiled(settings: dict[str, object]) -> None:
    compiled = compile_settings(settings, None)
    launched = launch(context(settings), replace(compiled, notes=("of the compilation",)))
    assert (launched.outcomes, launched.files) == (compiled.outcomes, compiled.files)
    assert launched.notes == ("of the compilation",)
    assert launched.command[-len(compiled.arguments) :] == compiled.arguments


@pytest.mark.parametrize("setting", ["tokenizer", "speculative_draft_model", "speculative_eagle"])
def test_a_second_model_is_named_like_the_model_itself(setting: str, tmp_path: Path) -> None:
    for source, place in {"hf:owner/name": "owner/name", str(tmp_path): str(tmp_path)}.items():
        assert place in compile_settings({setting: source}, None).outcomes[0].becomes
    [catalogued] = compile_settings({setting: "smollm2-135m"}, None).outcomes
    assert "/smollm2-135m" in catalogued.becomes
    [refused] = compile_settings({setting: "hf:owner/name@main"}, None).outcomes
    assert refused.outcome == "unsupported"
    assert "give hf:owner/name" in refused.why


def test_every_portable_setting_has_a_rule() -> None:
    assert set(RULES) == set(ENGINE_RULES) == set(EngineSettings.model_fields)


def test_every_constructor_argument_is_one_of_the_contract() -> None:
    constructor = set(contract()["in_process_api"]["constructor"])
    settings = {name: value for name, value in EVERYTHING.items() if name != "data_parallel"}
    plan = compile_plan(SPEC, context(settings, mode="in_process"))
    assert set(plan.keywords) - {"enginebay_seed"} <= constructor
    assert not plan.command


# ---------------------------------------------------------------- what is refused or explained


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"quantization": "int8"}, "checkpoint"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "nvfp4"),
        ({"data_parallel": 3}, "balancer"),
        ({"data_parallel": 4, "tensor_parallel_size": 2}, "tensor_parallel_size"),
    ],
)
def test_what_the_pytorch_path_cannot_do_is_refused_with_a_way_out(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        get_backend("tensorrt_llm", model="hf:a/b", engine=settings)


def test_one_way_of_speculation_at_a_time() -> None:
    compiled = compile_pytorch({"speculative_ngram": 3, "speculative_eagle": "/e"}, line="1.2", num_draft_tokens=4)
    assert [outcome.outcome for outcome in compiled.outcomes] == ["mapped", "unsupported"]


def test_an_engine_knows_its_quantisations() -> None:
    words = {"fp8": "mapped", "NVFP4": "mapped", "int8": "approximated", "awq": "approximated", "bits": "unsupported"}
    for word, outcome in words.items():
        [found] = compile_engine({"quantization": word}, api="openai").outcomes
        assert found.outcome == outcome, word
    assert "FP8" in QUANT_ALGOS


IMAGE = "nvcr.io/nvidia/tensorrt-llm/release"


@pytest.mark.parametrize("image", [IMAGE, f"{IMAGE}:latest", f"{IMAGE}:nightly-py3"])
def test_an_image_that_is_not_pinned_is_refused(image: str) -> None:
    with pytest.raises(ConfigError, match="not pinned"):
        SPEC.check(context(mode="docker", image=image))


def test_the_tag_of_the_image_is_the_version() -> None:
    settings = {"revision": "v1"}
    assert "--revision" in compile_plan(SPEC, context(settings, mode="docker", image=f"{IMAGE}:1.3.0rc5")).command
    assert "--revision" not in compile_plan(SPEC, context(settings, mode="docker")).command


@pytest.mark.parametrize(("port", "metrics_port"), [("8000", "8002"), ("65533", "65535"), ("65534", "65532")])
def test_the_metrics_of_triton_have_a_port_that_exists(port: str, metrics_port: str) -> None:
    command = compile_plan(SPEC, context(api="triton", port=int(port), **LESSON_ENGINE)).command
    assert command[command.index("--http-port") + 1] == port
    assert command[command.index("--metrics-port") + 1] == metrics_port


@pytest.mark.parametrize("version", ["0.20.0", "2.0", "newest"])
def test_a_line_that_nobody_knows_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match="not known"):
        line_of(version)


@pytest.mark.parametrize(
    "options",
    [
        {"max_input_len": 2048},
        {"engine_directory": "/e"},
        {"api": "triton", "token_ids_only": True},
        {"api": "triton", "guided_decoding_backend": "xgrammar"},
        {"metrics_url": "http://127.0.0.1:8002"},
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TensorrtLlmOptions.model_validate(options)


@pytest.mark.parametrize(
    ("made", "path"),
    [
        (lambda: context(api="triton"), "options.path"),
        (lambda: context(path="engine"), "options.engine_directory"),
        (lambda: context(mode="in_process", path="engine", engine_directory="/e"), "options.path"),
        (lambda: context(mode="external"), "url"),
        (lambda: context(tool_parser="qwen3"), "options.tool_parser"),
    ],
)
def test_a_context_that_cannot_work_is_refused_before_anything_starts(
    made: Callable[[], BackendContext], path: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        SPEC.check(made())
    assert caught.value.path == path


def test_an_engine_that_is_not_built_is_refused_when_the_backend_is_made() -> None:
    with pytest.raises(ConfigError, match="build it first"):
        get_backend("tensorrt_llm", model="hf:a/b", options=LESSON_ENGINE | {"engine_directory": "/nowhere"})


def test_an_engine_that_was_built_with_other_numbers_is_refused(tmp_path: Path) -> None:
    built = {"build_config": {"max_batch_size": 64}, "pretrained_config": {"dtype": "float16"}}
    (tmp_path / "config.json").write_text(json.dumps(built))
    options: dict[str, Any] = LESSON_ENGINE | {"engine_directory": str(tmp_path)}
    plan = compile_plan(SPEC, context({"max_num_seqs": 256, "dtype": "float16"}, **options))
    assert [outcome.outcome for outcome in plan.outcomes] == ["unsupported", "mapped"]
    assert "built with 64, not 256" in plan.outcomes[0].why
    assert not compile_plan(SPEC, context({"max_num_seqs": 64}, **options)).unsupported
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not readable"):
        compile_plan(SPEC, context(LESSON, **options))


def test_lengths_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="2560"):
        compile_plan(SPEC, context({"max_model_len": 4096}, **LESSON_ENGINE))


# ---------------------------------------------------------------- the legacy path


def lesson_files(**more: object) -> Mapping[str, str]:
    return compile_plan(SPEC, context(LESSON, **{**LESSON_ENGINE, **more})).files


def test_the_lesson_is_built_alike_by_command_and_by_program() -> None:
    files = lesson_files()
    command = next(line for line in files["build_engine.sh"].splitlines() if line.startswith("trtllm-build"))
    words = shlex.split(command)
    numbers = {"--max_batch_size": "256", "--max_input_len": "2048", "--max_seq_len": "2560"}
    assert {flag: words[words.index(flag) + 1] for flag in numbers} == numbers
    calls = [node for node in ast.walk(ast.parse(files["build_engine.py"])) if isinstance(node, ast.Call)]
    [build] = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "BuildConfig"]
    found = {keyword.arg: ast.literal_eval(keyword.value) for keyword in build.keywords}
    assert found == {"max_batch_size": 256, "max_input_len": 2048, "max_seq_len": 2560}


def test_the_legacy_path_is_marked() -> None:
    plan = compile_plan(SPEC, context(LESSON, **LESSON_ENGINE))
    assert "legacy" in plan.notes[0]
    assert "Legacy" in plan.files["build_engine.sh"]
    assert "Legacy" in plan.files["build_engine.py"]
    assert "legacy" not in " ".join(compile_plan(SPEC, context(LESSON)).notes)


def test_scripts_of_the_legacy_path_are_sound_shell(tmp_path: Path) -> None:
    for world_size in (1, 2):
        files = compile_plan(SPEC, context({"tensor_parallel_size": world_size}, api="triton", **LESSON_ENGINE)).files
        for name in ("build_engine.sh", "serve_triton.sh"):
            script = tmp_path / name
            script.write_text(files[name])
            assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0


def test_the_model_repository_is_complete_and_wired() -> None:
    """Every tensor of a step exists in the model that it names, and inner tensors are made before they are used."""
    files = lesson_files(api="triton")
    configs = {name.split("/")[1]: text for name, text in files.items() if name.endswith("config.pbtxt")}
    assert set(configs) == {"ensemble", "preprocessing", "tensorrt_llm", "postprocessing"}
    tensors = {model: set(re.findall(r'^    name: "(\w+)"', text, re.MULTILINE)) for model, text in configs.items()}
    made: set[str] = set(tensors["ensemble"])
    for step in configs["ensemble"].split("model_name:")[1:]:
        model = re.findall(r'"(\w+)"', step)[0]
        for kind, key, value in re.findall(r'(input|output)_map \{ key: "(\w+)" value: "(\w+)" \}', step):
            assert key in tensors[model], (model, key)
            if kind == "input":
                assert value in made, (model, value)
            made.add(value)
    for text in configs.values():
        assert text.count("{") == text.count("}")
        assert text.count("[") == text.count("]")
        assert "max_batch_size: 256" in text
        assert "$" not in text


def test_the_ensemble_has_every_input_of_the_contract() -> None:
    text = lesson_files(api="triton")["triton_model_repo/ensemble/config.pbtxt"]
    inputs = set(re.findall(r'name: "(\w+)"', text.split("output [")[0]))
    outputs = set(re.findall(r'name: "(\w+)"', text.split("output [")[1]))
    ensemble = contract()["triton"]["models"]["ensemble"]
    assert set(ensemble["inputs"]) <= inputs
    assert set(ensemble["outputs"]) <= outputs


def test_the_options_file_is_yaml_and_nothing_in_it_hides_a_flag() -> None:
    plan = compile_plan(SPEC, context(EVERYTHING))
    file = YAML(typ="safe", pure=True).load(plan.files["llm_options.yaml"])
    fraction = plan.command[plan.command.index("--kv_cache_free_gpu_memory_fraction") + 1]
    assert file["kv_cache_config"]["free_gpu_memory_fraction"] == float(fraction)
    assert file["speculative_config"] == {"decoding_type": "NGram", "max_draft_len": 5}


def test_the_evidence_claims_no_more_than_a_simulator() -> None:
    assert "against a simulator" in EVIDENCE
    assert "has not run on a GPU" in EVIDENCE
    assert SPEC.modes[0] == "managed"
    assert get_args(TensorrtLlmOptions.model_fields["path"].annotation)[0] == "pytorch"


def test_a_folder_that_no_container_has_is_said_so() -> None:
    notes = compile_plan(SPEC, docker({"tokenizer": "/models/t", "speculative_eagle": "hf:owner/head"})).notes
    assert [note for note in notes if "inside the container" in note and "/models/t" in note]
    assert not [note for note in notes if "owner/head" in note]
    assert "owner/head" in compile_plan(SPEC, docker({"speculative_eagle": "hf:owner/head"})).files["llm_options.yaml"]
