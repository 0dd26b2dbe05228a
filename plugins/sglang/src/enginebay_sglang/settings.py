"""What each portable setting becomes for sglang.launch_server."""

from __future__ import annotations

from collections.abc import Mapping

from enginebay.backend import LaunchPlan, Settings
from enginebay.backends.launch.compiled_setting import CompiledSetting, Rule, compiled_by
from enginebay.backends.launch.second_model import second_model_argument
from enginebay.errors import ConfigError

NEWEST_VERSION = "0.5.23"
NUM_DRAFT_STEPS = 3

_CACHE_TYPES = ("auto", "fp8_e5m2", "fp8_e4m3", "mxfp8", "bf16", "bfloat16", "nvfp4", "fp4_mx_block16")
_CACHE_TYPE_OF: Mapping[str, str] = {**{name: name for name in _CACHE_TYPES}, "fp8": "fp8_e4m3"}
_QUANTIZATIONS = (
    "awq", "fp8", "mxfp8", "gptq", "gptq_marlin", "awq_marlin", "bitsandbytes", "gguf", "modelopt", "modelopt_fp8",
    "modelopt_fp4", "nvfp4_online", "modelopt_mixed", "petit_nvfp4", "w8a8_int8", "w8a8_fp8", "moe_wna16", "w4afp8",
    "mxfp4", "auto-round", "auto-round-int8", "compressed-tensors", "quark", "quark_int4fp8_moe", "quark_mxfp4",
)  # fmt: skip


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    return compiled_by(_RULES, settings, notes=_notes(version))


def _notes(version: str | None) -> tuple[str, ...]:
    if version is None or version.removeprefix("v") == NEWEST_VERSION:
        return ()
    return (f"the flags are those of SGLang {NEWEST_VERSION}: release {version} was not checked",)


# ---------------------------------------------------------------- one rule for each setting


def _flag(flag: str, *, why: str = "", is_exact: bool = True) -> Rule:
    return lambda value, settings: CompiledSetting(arguments=(flag, str(value)), why=why, is_exact=is_exact)


def _place(rule: Rule) -> Rule:
    """Of a tokenizer or a second model: the directory or the name of the hub that the engine understands."""

    def placed(value: object, settings: Settings) -> CompiledSetting:
        try:
            return rule(second_model_argument(str(value)), settings)
        except ConfigError as error:
            return CompiledSetting(refused=error.problem)

    return placed


def _dtype(value: object, settings: Settings) -> CompiledSetting:
    why = "a float32 checkpoint then runs in float16" if value == "auto" else ""
    return CompiledSetting(arguments=("--dtype", str(value)), why=why)


def _quantization(value: object, settings: Settings) -> CompiledSetting:
    method = str(value)
    if method == "int8":
        why = "int8 weights and activations go by this name, and want a checkpoint that was made so"
        return CompiledSetting(arguments=("--quantization", "w8a8_int8"), why=why, is_exact=False)
    if method not in _QUANTIZATIONS:
        known = ", ".join(_QUANTIZATIONS)
        return CompiledSetting(refused=f"SGLang {NEWEST_VERSION} has no method called {method!r}; it knows {known}")
    return CompiledSetting(arguments=("--quantization", method))


def _kv_cache_dtype(value: object, settings: Settings) -> CompiledSetting:
    cache_type = _CACHE_TYPE_OF.get(str(value))
    if cache_type is None:
        known = ", ".join(_CACHE_TYPES)
        return CompiledSetting(
            refused=f"SGLang {NEWEST_VERSION} has no KV cache type called {value!r}; it knows {known}"
        )
    why = "" if cache_type == value else f"one of two fp8 formats: {cache_type}"
    return CompiledSetting(arguments=("--kv-cache-dtype", cache_type), why=why, is_exact=cache_type == value)


def _prefix_caching(value: object, settings: Settings) -> CompiledSetting:
    if value:
        return CompiledSetting(becomes="nothing", why="on unless --disable-radix-cache is given")
    return CompiledSetting(arguments=("--disable-radix-cache",))


def _chunked_prefill(value: object, settings: Settings) -> CompiledSetting:
    if value:
        return CompiledSetting(becomes="nothing", why="on; SGLang chooses the size by the memory of the device")
    return CompiledSetting(arguments=("--chunked-prefill-size", "-1"))


def _trust_remote_code(value: object, settings: Settings) -> CompiledSetting:
    return (
        CompiledSetting(arguments=("--trust-remote-code",)) if value else CompiledSetting(becomes="nothing", why="off")
    )


# ---------------------------------------------------------------- speculation: one algorithm at a time

_DRAFTING = ("speculative_draft_model", "speculative_ngram", "speculative_eagle")


def _draft(algorithm: str) -> Rule:
    def rule(value: object, settings: Settings) -> CompiledSetting:
        tree = ("--speculative-num-steps", str(NUM_DRAFT_STEPS), "--speculative-eagle-topk", "1")
        arguments = (
            "--speculative-algorithm", algorithm, "--speculative-draft-model-path", str(value), *tree,
            "--speculative-num-draft-tokens", str(NUM_DRAFT_STEPS + 1),
        )  # fmt: skip
        why = f"a chain of {NUM_DRAFT_STEPS} drafted tokens; the number sent to be verified has the one before it too"
        return _alone(CompiledSetting(arguments=arguments, why=why), settings)

    return rule


def _ngram(value: object, settings: Settings) -> CompiledSetting:
    arguments = ("--speculative-algorithm", "NGRAM", "--speculative-num-draft-tokens", str(value))
    why = "looked up in what all requests of the server have seen, not in this prompt alone"
    return _alone(CompiledSetting(arguments=arguments, why=why, is_exact=False), settings)


def _alone(compiled: CompiledSetting, settings: Settings) -> CompiledSetting:
    given = [setting for setting in settings if setting in _DRAFTING]
    if len(given) == 1:
        return compiled
    return CompiledSetting(refused=f"one way to draft at a time: {' and '.join(given)} are set")


_RULES: Mapping[str, Rule] = {
    "tokenizer": _place(_flag("--tokenizer-path")),
    "revision": _flag("--revision"),
    "dtype": _dtype,
    "quantization": _quantization,
    "tensor_parallel_size": _flag("--tp-size"),
    "pipeline_parallel_size": _flag("--pp-size"),
    "data_parallel": _flag("--dp-size"),
    "max_num_seqs": _flag("--max-running-requests"),
    "max_model_len": _flag("--context-length"),
    "max_num_batched_tokens": _flag(
        "--max-prefill-tokens", is_exact=False, why="of prefill batches, and never below the context length"
    ),
    "gpu_memory_fraction": _flag(
        "--mem-fraction-static", is_exact=False, why="weights and KV pool alone; activations come on top"
    ),
    "kv_cache_dtype": _kv_cache_dtype,
    "enable_prefix_caching": _prefix_caching,
    "chunked_prefill": _chunked_prefill,
    "speculative_draft_model": _place(_draft("STANDALONE")),
    "speculative_ngram": _ngram,
    "speculative_eagle": _place(_draft("EAGLE3")),
    "seed": _flag("--random-seed", why="a seed of a request acts only with options.deterministic"),
    "served_model_name": _flag("--served-model-name"),
    "trust_remote_code": _trust_remote_code,
    "log_level": _flag("--log-level"),
}
