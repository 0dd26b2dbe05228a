"""The legacy build step, rendered twice from the same numbers: as `trtllm-build` and as a BuildConfig in Python.

Neither is run by us: an engine is built once, on the GPU that it will run on, and takes minutes.
"""

from __future__ import annotations

import shlex

from enginebay_tensorrt_llm.engine_settings import EngineBuild

BUILD_SCRIPT = "build_engine.sh"
BUILD_PROGRAM = "build_engine.py"


def build_command(build: EngineBuild, *, checkpoint: str, engine: str) -> tuple[str, ...]:
    """checkpoint: a folder in TensorRT-LLM's own format, which fixes dtype, quantisation and parallelism."""
    lengths = {
        "--max_batch_size": build.max_batch_size,
        "--max_input_len": build.max_input_len,
        "--max_seq_len": build.max_seq_len,
        "--max_num_tokens": build.max_num_tokens,
    }
    command = ["trtllm-build", "--checkpoint_dir", checkpoint, "--output_dir", engine]
    for flag, value in lengths.items():
        if value is not None:
            command += [flag, str(value)]
    command += ["--gemm_plugin", "auto"]
    if build.needs_paged_context:
        command += ["--use_paged_context_fmha", "enable"]
    if build.world_size > 1:
        command += ["--workers", str(build.world_size)]
    return tuple(command)


def build_script(build: EngineBuild, *, checkpoint: str, engine: str) -> str:
    return "\n".join(
        [
            "#!/bin/sh",
            "# Legacy: builds a TensorRT engine. The PyTorch path needs no such step.",
            f"# {checkpoint} is a checkpoint in TensorRT-LLM's own format: convert_checkpoint.py of the model's",
            f"# family, among the examples of the release, makes it{_conversion(build)}.",
            "# build_engine.py beside this file does both steps in one.",
            "set -eu",
            shlex.join(build_command(build, checkpoint=checkpoint, engine=engine)),
            "",
        ]
    )


def _conversion(build: EngineBuild) -> str:
    words = [f"--dtype {build.dtype}", f"--tp_size {build.tensor_parallel_size}"]
    words += [f"--pp_size {build.pipeline_parallel_size}"]
    words += [f"quantised as {build.quant_algo}"] if build.quant_algo else []
    return f" ({', '.join(words)})"


def build_program(build: EngineBuild, *, model: str, engine: str) -> str:
    """A Python program of its own that needs `tensorrt_llm` alone: converts, builds and saves."""
    lengths = {
        "max_batch_size": build.max_batch_size,
        "max_input_len": build.max_input_len,
        "max_seq_len": build.max_seq_len,
        "max_num_tokens": build.max_num_tokens,
    }
    lines = [
        '"""Legacy: builds a TensorRT engine. The PyTorch path needs no such step."""',
        "",
        f"from tensorrt_llm.llmapi import {', '.join(_imports(build))}",
        "from tensorrt_llm._tensorrt_engine import LLM",
        "",
        "if __name__ == '__main__':",
        "    build_config = BuildConfig(",
        *(f"        {name}={value}," for name, value in lengths.items() if value is not None),
        "    )",
        *(["    build_config.plugin_config.use_paged_context_fmha = True"] if build.needs_paged_context else []),
        "    llm = LLM(",
        f"        model={model!r},",
        *(f"        {argument}," for argument in _constructor(build)),
        "        build_config=build_config,",
        "    )",
        f"    llm.save({engine!r})",
        "    llm.shutdown()",
        "",
    ]
    return "\n".join(lines)


def _imports(build: EngineBuild) -> list[str]:
    names = ["BuildConfig"]
    if build.quant_algo or build.kv_cache_quant_algo:
        names += ["QuantAlgo", "QuantConfig"]
    return names


def _constructor(build: EngineBuild) -> list[str]:
    arguments = [f"dtype={build.dtype!r}", f"tensor_parallel_size={build.tensor_parallel_size}"]
    arguments += [f"pipeline_parallel_size={build.pipeline_parallel_size}"]
    if build.revision is not None:
        arguments += [f"revision={build.revision!r}"]
    if build.trust_remote_code:
        arguments += ["trust_remote_code=True"]
    algos = {"quant_algo": build.quant_algo, "kv_cache_quant_algo": build.kv_cache_quant_algo}
    if any(algos.values()):
        inner = ", ".join(f"{name}=QuantAlgo.{algo}" for name, algo in algos.items() if algo)
        arguments += [f"quant_config=QuantConfig({inner})"]
    return arguments
