"""What each portable setting becomes for llama-server."""

from __future__ import annotations

from collections.abc import Mapping

from enginebay.backend import LaunchPlan, Settings
from enginebay.backends.launch.compiled_setting import CompiledSetting, Rule, compiled_by

NEWEST_VERSION = "b11434"
SEED_MODULUS = 2**32 - 1
"""Seeds have 32 bits, and the largest value means a random one."""
CONTEXT_STEP = 256
"""The context of a slot is rounded up to a multiple of it."""

_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_CACHE_TYPE_OF: Mapping[str, str] = {
    **{name: name for name in _CACHE_TYPES},
    "auto": "f16",
    "float16": "f16",
    "fp16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "fp32": "f32",
}
_VERBOSITY = {"error": 1, "warning": 2, "info": 3, "debug": 5}
_BY_THE_FILE = "the GGUF file decides it"


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    return compiled_by(_RULES, settings, notes=_notes(version))


def _notes(version: str | None) -> tuple[str, ...]:
    if version in (None, NEWEST_VERSION):
        return ()
    return (f"the flags are those of llama.cpp {NEWEST_VERSION}: build {version} was not checked",)


# ---------------------------------------------------------------- what fits one line


def _refused(why: str) -> Rule:
    return lambda value, settings: CompiledSetting(refused=why)


def _flag(flag: str) -> Rule:
    return lambda value, settings: CompiledSetting(arguments=(flag, str(value)))


def _only(expected: object, *, why: str, refused: str) -> Rule:
    """One value is what happens anyway; any other cannot be had."""

    def rule(value: object, settings: Settings) -> CompiledSetting:
        return CompiledSetting(becomes="nothing", why=why) if value == expected else CompiledSetting(refused=refused)

    return rule


# ---------------------------------------------------------------- memory and slots


def _max_model_len(value: object, settings: Settings) -> CompiledSetting:
    """--ctx-size is the sum over the slots, of which each then has its share and no more, in steps of 256 tokens."""
    asked, num_slots = int(str(value)), settings.get("max_num_seqs")
    length = -(-asked // CONTEXT_STEP) * CONTEXT_STEP
    rounded = "" if length == asked else f"; contexts go in steps of {CONTEXT_STEP}: {length} instead of {asked}"
    if num_slots is None:
        why = "the sum over all slots, which share it: set max_num_seqs and each gets this many tokens of its own"
        return CompiledSetting(arguments=("--ctx-size", str(length)), is_exact=False, why=why + rounded)
    return CompiledSetting(
        arguments=("--ctx-size", str(length * int(str(num_slots)))),
        is_exact=False,
        why=f"{length} tokens for each of the {num_slots} slots, reserved whether used or not{rounded}",
    )


def _kv_cache_dtype(value: object, settings: Settings) -> CompiledSetting:
    cache_type = _CACHE_TYPE_OF.get(str(value))
    if cache_type is None:
        return CompiledSetting(refused=f"llama.cpp has no cache type {value!r}; it knows {', '.join(_CACHE_TYPES)}")
    return CompiledSetting(arguments=("--cache-type-k", cache_type, "--cache-type-v", cache_type))


def _prefix_caching(value: object, settings: Settings) -> CompiledSetting:
    flag = "--cache-prompt" if value else "--no-cache-prompt"
    return CompiledSetting(
        arguments=(flag,), is_exact=False, why="kept slot by slot, not block by block for all requests"
    )


# ---------------------------------------------------------------- several GPUs


def _tensor_parallel(value: object, settings: Settings) -> CompiledSetting:
    size = int(str(value))
    if size == 1:
        if _is_split_by_layers(settings):
            return CompiledSetting(becomes="nothing", why="pipeline_parallel_size sets the split")
        return CompiledSetting(arguments=("--split-mode", "none"))
    return _split("row", size)


def _pipeline_parallel(value: object, settings: Settings) -> CompiledSetting:
    size = int(str(value))
    if size == 1:
        return CompiledSetting(becomes="nothing", why="layers are not split unless that is asked for")
    if settings.get("tensor_parallel_size", 1) != 1:
        return CompiledSetting(
            refused="llama.cpp splits a model in one way: set tensor or pipeline parallelism, not both"
        )
    return _split("layer", size)


def _is_split_by_layers(settings: Settings) -> bool:
    return settings.get("pipeline_parallel_size", 1) != 1


def _split(mode: str, size: int) -> CompiledSetting:
    return CompiledSetting(
        arguments=("--split-mode", mode, "--tensor-split", ",".join(["1"] * size)),
        is_exact=False,
        why=f"in equal parts over the first {size} devices that it sees",
    )


# ---------------------------------------------------------------- speculation

_DRAFTING = ("speculative_draft_model", "speculative_ngram", "speculative_eagle")


def _draft(spec_type: str) -> Rule:
    def rule(value: object, settings: Settings) -> CompiledSetting:
        if second := _second_draft(settings):
            return CompiledSetting(refused=second)
        if not str(value).endswith(".gguf"):
            return CompiledSetting(refused="give the path of the draft's GGUF file: llama.cpp loads nothing else")
        return CompiledSetting(arguments=("--spec-type", spec_type, "--spec-draft-model", str(value)))

    return rule


def _ngram(value: object, settings: Settings) -> CompiledSetting:
    if second := _second_draft(settings):
        return CompiledSetting(refused=second)
    arguments = ("--spec-type", "ngram-mod", "--spec-ngram-mod-n-min", "1", "--spec-ngram-mod-n-max", str(value))
    why = "looked up in what all requests of the server have seen, not in this prompt alone"
    return CompiledSetting(arguments=arguments, is_exact=False, why=why)


def _second_draft(settings: Settings) -> str:
    given = [setting for setting in settings if setting in _DRAFTING]
    return f"one way to draft at a time: {' and '.join(given)} are set" if len(given) > 1 else ""


# ---------------------------------------------------------------- the rest


def _seed(value: object, settings: Settings) -> CompiledSetting:
    return CompiledSetting(arguments=("--seed", str(int(str(value)) % SEED_MODULUS)), why="of requests without one")


def _served_model_name(value: object, settings: Settings) -> CompiledSetting:
    if "," in str(value):
        return CompiledSetting(refused="a comma separates names in --alias")
    return CompiledSetting(arguments=("--alias", str(value)))


def _log_level(value: object, settings: Settings) -> CompiledSetting:
    return CompiledSetting(arguments=("--verbosity", str(_VERBOSITY[str(value)])))


_RULES: Mapping[str, Rule] = {
    "tokenizer": _refused("the tokenizer is inside the GGUF file"),
    "revision": _refused("llama.cpp takes a repository of the hub as it is now"),
    "dtype": _only("auto", why=_BY_THE_FILE, refused=f"{_BY_THE_FILE}: choose one with the weights wanted"),
    "quantization": _refused(f"{_BY_THE_FILE}; of a repository of the hub, options.hub_quantization chooses"),
    "tensor_parallel_size": _tensor_parallel,
    "pipeline_parallel_size": _pipeline_parallel,
    "data_parallel": _only(1, why="one copy of the model", refused="run several servers instead"),
    "max_num_seqs": _flag("--parallel"),
    "max_model_len": _max_model_len,
    "max_num_batched_tokens": _flag("--batch-size"),
    "gpu_memory_fraction": _refused("llama.cpp fits layers into the memory that is free; see options.num_gpu_layers"),
    "kv_cache_dtype": _kv_cache_dtype,
    "enable_prefix_caching": _prefix_caching,
    "chunked_prefill": _only(
        True, why="prompts are always split by --batch-size", refused="prompts are always split by --batch-size"
    ),
    "speculative_draft_model": _draft("draft-simple"),
    "speculative_ngram": _ngram,
    "speculative_eagle": _draft("draft-eagle3"),
    "seed": _seed,
    "served_model_name": _served_model_name,
    "trust_remote_code": _only(
        False, why="a GGUF file has no code in it", refused="a GGUF file has no code that could be run"
    ),
    "log_level": _log_level,
}
