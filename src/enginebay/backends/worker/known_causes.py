"""What engines write when they cannot start, and what that means. In their own words: a test has a log of each."""

from __future__ import annotations

import re

_LESS_MEMORY = "lower max_model_len, max_num_seqs or the size of the KV cache, or use a smaller dtype"

_Table = tuple[tuple[str, str], ...]

_SURE: _Table = (
    # ---- memory, said exactly
    (
        r"Free memory on device .* is less than desired GPU memory utilization",
        "another process holds memory of the GPU: end it (nvidia-smi names it), or lower gpu_memory_fraction",
    ),
    (
        r"No available memory for the cache blocks|Please try to increase --mem-fraction-static",
        "memory ran out: none is left for the KV cache beside the weights: raise gpu_memory_fraction, lower "
        "max_model_len, or share the model between more GPUs (tensor_parallel_size)",
    ),
    (
        r"larger than the (?:available KV cache memory|maximum number of tokens that can be stored in KV cache)"
        r"|KV cache (?:does not fit|cannot hold)",
        "the KV cache does not fit or holds no whole context: change the settings that the line names, "
        "such as max_model_len or gpu_memory_fraction",
    ),
    (
        r"Not enough memory to handle \d+ prefill tokens",
        "memory ran out: lower max_num_batched_tokens, max_model_len or max_num_seqs",
    ),
    (
        r"CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|cudaMalloc.*out of memory|CUDA error: out of memory"
        r"|hipErrorOutOfMemory|HIP out of memory",
        f"memory ran out on the GPU: {_LESS_MEMORY}, or share the model between more GPUs (tensor_parallel_size)",
    ),
    # ---- port
    (
        r"(?i:address already in use)|EADDRINUSE|port is already allocated"
        r"|couldn't bind (?:to server|HTTP server) socket",
        "the port is in use by another process: end it, or set another options.port, or none for a free one",
    ),
    # ---- GPU
    (
        r"could not select device driver|nvidia-container-cli: ",
        "the container runtime cannot hand on GPUs: install the NVIDIA container toolkit, or set options.gpus to null",
    ),
    (
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient",
        "the NVIDIA driver is too old for this engine: update it, or use an older release of the engine",
    ),
    (
        r"No CUDA GPUs are available|Failed to infer device type|Found no NVIDIA driver|no CUDA-capable device"
        r"|Torch not compiled with CUDA enabled|libcuda\.so\S*: cannot open|No accelerator \(CUDA",
        "there is no GPU that it can use: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use an engine for CPUs",
    ),
    (
        r"[Ww]orld size \(\d+\) is larger than the number of available GPUs|sharded is true but only found \d+ CUDA"
        r"|must be less than or equal to the number of (?:available )?(?:GPUs|CUDA devices)",
        "there are fewer GPUs than asked for: lower tensor_parallel_size or pipeline_parallel_size",
    ),
    # ---- image
    (
        r"Cannot connect to the Docker daemon|permission denied while trying to connect to the Docker daemon",
        "the Docker daemon does not answer: start it, and check that you may use it",
    ),
    (
        r"pull access denied for ([^\s,]+)|manifest for (\S+) not found|manifest unknown|No such image: (\S+)",
        "there is no such image {0}: check `image` and its tag, and log in where it is private",
    ),
    # ---- flags
    (
        r"unrecognized arguments: (.+)|unexpected argument '([^']+)' found|error: invalid argument: (\S+)"
        r"|No such option:? '?(--?[\w-]+)",
        "the engine does not know the argument {0}: check its release (options.version) and options.extra_arguments",
    ),
    (
        r"error: argument ([^:]+): |invalid value '[^']*' for '([^']+)'|Invalid value for '([^']+)'"
        r"|error while handling argument \"([^\"]+)\"",
        "the engine refuses the value of the argument {0}: see the line that names it",
    ),
    # ---- memory, in any words. Behind what is said exactly, before the weights, which then cannot be loaded
    (
        r"(?<!avoid )(?<!prevent )(?<!without )(?<!no )(?i:out of memory)(?! (?:checks?|protection|handling|tests?)\b)"
        r"|(?i:can't allocate memory|cannot allocate memory|std::bad_alloc)|\bMemoryError\b"
        r"|failed to allocate (?:\S+ )?buffer|unable to allocate \S+ buffer",
        f"memory ran out: {_LESS_MEMORY}",
    ),
)

_NEAR_THE_END: _Table = (
    # ---- weights
    (
        r"GatedRepoError|[Cc]annot access gated repo|40[13] Client Error|Access to model \S+ is restricted",
        "the hub refuses access to the model: accept its licence there, and give HF_TOKEN in the entry's environment",
    ),
    (
        r"RepositoryNotFoundError|is not a valid model identifier|404 Client Error",
        "the hub has no such model: check its name and revision",
    ),
    (
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|We couldn't connect to 'https://huggingface\.co'"
        r"|[Cc]annot find the requested files in the (?:local|disk) cache",
        "the model is not in the hub's cache, and the hub cannot be reached: pull it first, or unset HF_HUB_OFFLINE",
    ),
    (
        r"[Tt]rust_?remote_?code=True|trust-remote-code",
        "the model brings code of its own: set trust_remote_code to true if you trust it",
    ),
    (
        r"ModelNotFound|No such file or directory: '?([^']*(?:safetensors|config\.json|tokenizer)[^']*)'?"
        r"|does not appear to have a file named|Cannot find any model weights|No (?:safetensors|\.bin) weights found"
        r"|failed to (?:load model|open GGUF file)|error loading model",
        "weights or configuration of the model are missing: check the model's directory, or pull it again",
    ),
    # ---- settings
    (
        r"Bfloat16 is only supported on GPUs with compute capability",
        "this GPU cannot compute in bfloat16: set dtype to float16",
    ),
    (
        r"max_model_len \(?\d+\)? is greater than the derived max_model_len",
        "max_model_len is larger than the model's own context: lower it",
    ),
    (
        r"attention heads.*divisible by tensor parallel|must be divisible by (?:tensor parallel size|tp_size)",
        "the model cannot be shared between that many GPUs: lower tensor_parallel_size to a divisor of its heads",
    ),
    # ---- the installation
    (
        r"(\S+\.so[.\d]*): cannot open shared object file",
        "the shared library {0} is missing: install it, or name its folder in the entry's LD_LIBRARY_PATH",
    ),
    (r"No module named '?([\w.]+)", "the Python module {0} is not installed for {python}"),
    (
        r"ConfigError|UnsupportedModel|ModelError|invalid choice|ValidationError"
        r"|Model architectures? \S+ (?:is|are) not supported|[Uu]nsupported model type",
        "a setting or the model is not supported: see the last line",
    ),
)

SURE_CAUSES = tuple((re.compile(text), cause) for text, cause in _SURE)
"""However early in the log: nothing but a failure writes these."""
KNOWN_CAUSES = (*SURE_CAUSES, *((re.compile(text), cause) for text, cause in _NEAR_THE_END))
"""Looked for in this order: the first that is found is named. The others count among the last lines alone: engines try
what may be missing, and go on without it."""
IS_SURE = re.compile("|".join(f"(?:{text})" for text, _ in _SURE))
"""Whether a line tells one of the sure causes: one search for most lines."""
