"""What real engines write when they do not start, and the cause that is named for it."""

from __future__ import annotations

import pytest

from enginebay.backends.worker.start_failure import explained, likely_cause

LOGS = {
    "vllm: weights larger than the GPU": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total capacity of 23.69 "
        "GiB of which 50.19 MiB is free.",
        "memory ran out on the GPU",
    ),
    "vllm: no room for blocks": (
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
        "initializing the engine.",
        "raise gpu_memory_fraction",
    ),
    "vllm: a neighbour on the GPU": (
        "ValueError: Free memory on device (3.1/79.1 GiB) on startup is less than desired GPU memory utilization "
        "(0.92, 72.8 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
        "another process holds memory of the GPU",
    ),
    "vllm: a context that does not fit": (
        "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (8.10 GiB).",
        "max_model_len",
    ),
    "sglang: no room": (
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        "raise gpu_memory_fraction",
    ),
    "tgi: no room for prefill": (
        "RuntimeError: Not enough memory to handle 4096 prefill tokens. You need to decrease "
        "`--max-batch-prefill-tokens`",
        "max_num_batched_tokens",
    ),
    "tensorrt_llm: no room": (
        "[TensorRT-LLM][ERROR] CUDA runtime error in cudaMalloc(&ptr, n): out of memory",
        "memory ran out on the GPU",
    ),
    "llama.cpp: no room": (
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4096.00 MiB on device 0: cudaMalloc failed: out of "
        "memory",
        "memory ran out on the GPU",
    ),
    "llama.cpp: no room on the CPU": (
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 34359738400",
        "memory ran out",
    ),
    "pytorch: no room on the CPU": (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 17179869184 bytes. Error code 12 (Cannot allocate memory)",
        "memory ran out",
    ),
    "uvicorn: port": (
        "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",
        "the port is in use",
    ),
    "tgi: port": (
        'Error: WebServer(Axum(Os { code: 98, kind: AddrInUse, message: "Address already in use" }))',
        "the port is in use",
    ),
    "llama.cpp: port": (
        "srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080",
        "the port is in use",
    ),
    "docker: port": (
        "docker: Error response from daemon: driver failed programming external connectivity on endpoint enginebay-tgi "
        "(5c1): Bind for 127.0.0.1:8080 failed: port is already allocated.",
        "the port is in use",
    ),
    "argparse: flag": (
        "vllm serve: error: unrecognized arguments: --max-sequences 8",
        "does not know the argument --max-sequences 8",
    ),
    "argparse: value": (
        "vllm serve: error: argument --dtype: invalid choice: 'int8' (choose from 'auto', 'half')",
        "refuses the value of the argument --dtype",
    ),
    "clap: flag": (
        "error: unexpected argument '--max-seqs' found",
        "does not know the argument --max-seqs",
    ),
    "clap: value": (
        "error: invalid value 'int8' for '--dtype <DTYPE>'",
        "refuses the value of the argument --dtype <DTYPE>",
    ),
    "click: flag": (
        "Error: No such option: --max_seqs (Possible options: --max_seq_len, --max_batch_size)",
        "does not know the argument --max_seqs",
    ),
    "llama.cpp: flag": ("error: invalid argument: --slots-max", "does not know the argument --slots-max"),
    "hub: offline": (
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the "
        "specified revision on the local disk and outgoing traffic has been disabled.",
        "not in the hub's cache",
    ),
    "hub: gated": (
        "OSError: You are trying to access a gated repo. Make sure to have access to it. 401 Client Error.",
        "give HF_TOKEN in the entry's environment",
    ),
    "hub: forbidden": (
        "requests.exceptions.HTTPError: 403 Client Error: Forbidden for url: https://huggingface.co/api/models/o/m",
        "give HF_TOKEN in the entry's environment",
    ),
    "hub: unknown": (
        "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error. Repository Not Found for url",
        "the hub has no such model",
    ),
    "transformers: no file": (
        "OSError: /models/empty does not appear to have a file named config.json.",
        "weights or configuration of the model are missing",
    ),
    "llama.cpp: no file": (
        "gguf_init_from_file: failed to open GGUF file '/models/none.gguf' (No such file or directory)",
        "weights or configuration of the model are missing",
    ),
    "llama.cpp: no model": (
        "srv    load_model: failed to load model, '/models/none.gguf'",
        "weights or configuration of the model are missing",
    ),
    "transformers: code of the model's own": (
        "ValueError: The repository /models/x contains custom code which must be executed to correctly load the model. "
        "Please pass the argument `trust_remote_code=True` to allow custom code to be run.",
        "set trust_remote_code",
    ),
    "torch: no GPU": ("RuntimeError: No CUDA GPUs are available", "there is no GPU"),
    "torch: no driver": (
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
        "there is no GPU",
    ),
    "vllm: no device": (
        "RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG`",
        "there is no GPU",
    ),
    "cuda: no driver library": (
        "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
        "there is no GPU",
    ),
    "docker: no GPU": (
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
        "NVIDIA container toolkit",
    ),
    "torch: old driver": (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
        "driver is too old",
    ),
    "vllm: too few GPUs": (
        "ValueError: World size (2) is larger than the number of available GPUs (1) in this node.",
        "fewer GPUs than asked for",
    ),
    "loader: library": (
        "ImportError: libnvinfer.so.10: cannot open shared object file: No such file or directory",
        "the shared library libnvinfer.so.10 is missing",
    ),
    "docker: no image": (
        "docker: Error response from daemon: manifest for vllm/vllm-openai:v9 not found: manifest unknown.",
        "no such image vllm/vllm-openai:v9",
    ),
    "docker: private image": (
        "docker: Error response from daemon: pull access denied for acme/llm, repository does not exist or may "
        "require 'docker login'.",
        "no such image acme/llm",
    ),
    "docker: no daemon": (
        "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "the Docker daemon does not answer",
    ),
    "vllm: old GPU": (
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.",
        "set dtype to float16",
    ),
    "vllm: long context": (
        "ValueError: User-specified max_model_len (99999) is greater than the derived max_model_len (8192)",
        "larger than the model's own context",
    ),
}


@pytest.mark.parametrize("kind", LOGS)
def test_the_cause_is_named_in_the_engines_own_wording(kind: str):
    line, cause = LOGS[kind]
    prefixed = f"(EngineCore_DP0 pid=4711) ERROR 08-01 10:00:00 [core.py:700] {line}"
    for telling in (line, prefixed):
        found = likely_cause(returncode=1, log_tail=["starting", telling, "bye"], python="python")
        assert found is not None
        assert cause in found


def test_a_line_that_is_no_error_names_no_cause():
    log = ["WARNING [interface.py:172] Failed to import from vllm._C: No module named 'vllm._C'", "INFO out of memory"]
    assert likely_cause(returncode=1, log_tail=log, python="python") is None


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (["out of memory checks passed", "ValueError: unrecognized arguments: --x"], "does not know the argument --x"),
        (["expandable segments avoid out of memory", "bye"], None),
        (["RuntimeError: out of memory", "error: argument --dtype: invalid choice"], "refuses the value"),
        (["failed to allocate buffer of size 9", "error loading model: unable to load"], "memory ran out"),
    ],
)
def test_the_cause_that_is_said_most_exactly_is_named(log: list[str], cause: str | None):
    found = likely_cause(returncode=1, log_tail=log, python="python")
    assert found is None if cause is None else found is not None and cause in found


def test_the_line_that_tells_the_cause_is_shown_however_much_was_written_after_it():
    telling = "ERROR torch.OutOfMemoryError: CUDA out of memory."
    after = [f"  File core.py, line {number}" for number in range(60)]
    cause, shown = explained(returncode=1, log=["begin", telling, *after], python="python")
    assert cause is not None
    assert shown == [telling, "[...]", *after[-20:]]
    _, shown = explained(returncode=1, log=[*after, telling], python="python")
    assert shown == [*after[-19:], telling]


def test_a_container_that_was_killed_ends_with_the_code_of_a_shell():
    assert "memory ran out" in (likely_cause(returncode=137, log_tail=[], python="python") or "")
