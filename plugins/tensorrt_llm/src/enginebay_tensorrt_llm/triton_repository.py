"""The Triton model repository of the legacy path: `config.pbtxt` of its four models, from the engine's own numbers.

The Python programs of preprocessing and postprocessing are not ours: the image has them, `serve_triton.sh` copies them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from enginebay.backend import Settings
from enginebay_tensorrt_llm import triton_tensors as tensors
from enginebay_tensorrt_llm.engine_settings import EngineBuild
from enginebay_tensorrt_llm.triton_tensors import Tensor

REPOSITORY = "triton_model_repo"
SERVE_SCRIPT = "serve_triton.sh"
_DEFAULT_BATCH = 2048
"""What an engine is built with where nothing says otherwise."""


def repository_files(build: EngineBuild, settings: Settings, *, engine: str, tokenizer: str) -> dict[str, str]:
    """engine, tokenizer: folders as the server sees them."""
    batch = build.max_batch_size or _DEFAULT_BATCH
    configs = {
        "ensemble": _ensemble(batch),
        "preprocessing": _python_model(
            "preprocessing", batch, tensors.PREPROCESSING_INPUTS, tensors.PREPROCESSING_OUTPUTS,
            {"tokenizer_dir": tokenizer, "add_special_tokens": "true", "gpt_model_path": engine},
        ),
        "tensorrt_llm": _engine_model(batch, _engine_parameters(settings, engine=engine, tokenizer=tokenizer)),
        "postprocessing": _python_model(
            "postprocessing", batch, tensors.POSTPROCESSING_INPUTS, tensors.POSTPROCESSING_OUTPUTS,
            {"tokenizer_dir": tokenizer, "skip_special_tokens": "true"},
        ),
    }  # fmt: skip
    files = {f"{REPOSITORY}/{model}/config.pbtxt": config for model, config in configs.items()}
    return {**files, SERVE_SCRIPT: _serve_script(build)}


def _engine_parameters(settings: Settings, *, engine: str, tokenizer: str) -> dict[str, str]:
    parameters = {
        "max_beam_width": "1",
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": engine,
        "batch_scheduler_policy": "guaranteed_no_evict",
        "exclude_input_in_output": "true",
        "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
        "tokenizer_dir": tokenizer,
    }
    names = {
        "gpu_memory_fraction": "kv_cache_free_gpu_mem_fraction",
        "enable_prefix_caching": "enable_kv_cache_reuse",
        "chunked_prefill": "enable_chunked_context",
    }
    given = {names[setting]: settings[setting] for setting in names if setting in settings}
    return parameters | {name: str(value).lower() for name, value in given.items()}


def _serve_script(build: EngineBuild) -> str:
    return f"""#!/bin/sh
# Legacy: Triton over a TensorRT engine. Runs where the image nvcr.io/nvidia/tritonserver:*-trtllm-python-py3 does.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
models=${{TRTLLM_TRITON_MODELS:-/app/all_models/inflight_batcher_llm}}
repository=$here/{REPOSITORY}
if [ ! -w "$repository" ]; then  # mounted read-only
  cp -r "$repository" /tmp/
  repository=/tmp/{REPOSITORY}
fi
for model in preprocessing postprocessing; do
  cp -r "$models/$model/1" "$repository/$model/"
done
mkdir -p "$repository/ensemble/1" "$repository/tensorrt_llm/1"
{_launch(build.world_size)}
"""


def _launch(world_size: int) -> str:
    """One process for each rank under MPI; those behind the first load the engine's model alone."""
    server = 'tritonserver --model-repository "$repository"'
    if world_size == 1:
        return f'exec {server} "$@"'
    follower = f"{server} --model-control-mode=explicit --load-model=tensorrt_llm"
    ranks = [
        f"-n 1 {follower if rank else server} --disable-auto-complete-config "
        f'--backend-config=python,shm-region-prefix-name=rank{rank}_ "$@"'
        for rank in range(world_size)
    ]
    return "exec mpirun --allow-run-as-root " + " : ".join(ranks)


# ---------------------------------------------------------------- models


def _ensemble(batch: int) -> str:
    steps = [
        _step("preprocessing", tensors.PREPROCESSING_STEP_INPUTS, tensors.PREPROCESSING_STEP_OUTPUTS),
        _step("tensorrt_llm", tensors.ENGINE_STEP_INPUTS, tensors.ENGINE_STEP_OUTPUTS),
        _step("postprocessing", tensors.POSTPROCESSING_STEP_INPUTS, tensors.POSTPROCESSING_STEP_OUTPUTS),
    ]
    head = f'name: "ensemble"\nplatform: "ensemble"\nmax_batch_size: {batch}\n'
    ends = _io("input", tensors.ENSEMBLE_INPUTS) + _io("output", tensors.ENSEMBLE_OUTPUTS)
    return head + ends + "ensemble_scheduling {\n  step [\n" + ",\n".join(steps) + "\n  ]\n}\n"


def _engine_model(batch: int, parameters: Mapping[str, str]) -> str:
    # Decoupled: one request has many answers, which is what a stream is to Triton.
    head = (
        f'name: "tensorrt_llm"\nbackend: "tensorrtllm"\nmax_batch_size: {batch}\n'
        "model_transaction_policy {\n  decoupled: true\n}\n"
        f"dynamic_batching {{\n  preferred_batch_size: [ {batch} ]\n  max_queue_delay_microseconds: 0\n}}\n"
    )
    ends = _io("input", tensors.ENGINE_INPUTS) + _io("output", tensors.ENGINE_OUTPUTS)
    return head + ends + _instances() + _parameters(parameters)


def _python_model(
    name: str, batch: int, inputs: Iterable[Tensor], outputs: Iterable[Tensor], parameters: Mapping[str, str]
) -> str:
    head = f'name: "{name}"\nbackend: "python"\nmax_batch_size: {batch}\ndynamic_batching {{}}\n'
    return head + _io("input", inputs) + _io("output", outputs) + _parameters(parameters) + _instances()


# ---------------------------------------------------------------- protobuf text


def _io(kind: str, ends: Iterable[Tensor]) -> str:
    return f"{kind} [\n" + ",\n".join(_tensor(tensor) for tensor in ends) + "\n]\n"


def _tensor(tensor: Tensor) -> str:
    lines = [
        f'name: "{tensor.name}"',
        f"data_type: TYPE_{tensor.type}",
        f"dims: [ {', '.join(map(str, tensor.dims))} ]",
    ]
    lines += ["reshape: { shape: [ ] }"] if tensor.scalar else []
    lines += ["optional: true"] if tensor.optional else []
    lines += ["allow_ragged_batch: true"] if tensor.ragged else []
    return "  {\n" + "\n".join(f"    {line}" for line in lines) + "\n  }"


def _parameters(parameters: Mapping[str, str]) -> str:
    return "".join(
        f'parameters {{\n  key: "{key}"\n  value: {{ string_value: {_quoted(value)} }}\n}}\n'
        for key, value in parameters.items()
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _instances() -> str:
    return "instance_group [\n  {\n    count: 1\n    kind: KIND_CPU\n  }\n]\n"


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    maps = [("input_map", key, value) for key, value in inputs.items()]
    maps += [("output_map", key, value) for key, value in outputs.items()]
    lines = [f'      {kind} {{ key: "{key}" value: "{value}" }}' for kind, key, value in maps]
    return f'    {{\n      model_name: "{model}"\n      model_version: -1\n' + "\n".join(lines) + "\n    }"
