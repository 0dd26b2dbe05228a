"""What each portable setting becomes for llama-server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from enginebay.backend import LaunchPlan, SettingOutcome, Settings

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    """One setting. `refused` says why there is nothing of it."""

    arguments: tuple[str, ...] = ()
    becomes: str = ""
    why: str = ""
    is_exact: bool = True
    refused: str = ""

    def outcome(self, setting: str, value: object) -> SettingOutcome:
        if self.refused:
            return SettingOutcome(setting, value, "unsupported", why=self.refused)
        outcome: Literal["mapped", "approximated"] = "mapped" if self.is_exact else "approximated"
        return SettingOutcome(setting, value, outcome, becomes=self.becomes or " ".join(self.arguments), why=self.why)


_Rule = Callable[[object, Settings], _Compiled]


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    compiled = {name: _RULES[name](value, settings) for name, value in settings.items()}
    return LaunchPlan(
        outcomes=tuple(compiled[name].outcome(name, value) for name, value in settings.items()),
        arguments=tuple(argument for rule in compiled.values() for argument in rule.arguments),
        notes=_notes(version),
    )


def _notes(version: str | None) -> tuple[str, ...]:
    if version in (None, NEWEST_VERSION):
        return ()
    return (f"the flags are those of llama.cpp {NEWEST_VERSION}: build {version} was not checked",)


# ---------------------------------------------------------------- what fits one line


def _refused(why: str) -> _Rule:
    return lambda value, settings: _Compiled(refused=why)


def _flag(flag: str) -> _Rule:
    return lambda value, settings: _Compiled(arguments=(flag, str(value)))


def _only(expected: object, *, why: str, refused: str) -> _Rule:
    """One value is what happens anyway; any other cannot be had."""

    def rule(value: object, settings: Settings) -> _Compiled:
        return _Compiled(becomes="nothing", why=why) if value == expected else _Compiled(refused=refused)

    return rule


# ---------------------------------------------------------------- memory and slots


def _max_model_len(value: object, settings: Settings) -> _Compiled:
    """--ctx-size is the sum over the slots, of which each then has its share and no more, in steps of 256 tokens."""
    asked, num_slots = int(str(value)), settings.get("max_num_seqs")
    length = -(-asked // CONTEXT_STEP) * CONTEXT_STEP
    rounded = "" if length == asked else f"; contexts go in steps of {CONTEXT_STEP}: {length} instead of {asked}"
    if num_slots is None:
        why = "the sum over all slots, which share it: set max_num_seqs and each gets this many tokens of its own"
        return _Compiled(arguments=("--ctx-size", str(length)), is_exact=False, why=why + rounded)
    return _Compiled(
        arguments=("--ctx-size", str(length * int(str(num_slots)))),
        is_exact=False,
        why=f"{length} tokens for each of the {num_slots} slots, reserved whether used or not{rounded}",
    )


def _kv_cache_dtype(value: object, settings: Settings) -> _Compiled:
    cache_type = _CACHE_TYPE_OF.get(str(value))
    if cache_type is None:
        return _Compiled(refused=f"llama.cpp has no cache type {value!r}; it knows {', '.join(_CACHE_TYPES)}")
    return _Compiled(arguments=("--cache-type-k", cache_type, "--cache-type-v", cache_type))


def _prefix_caching(value: object, settings: Settings) -> _Compiled:
    flag = "--cache-prompt" if value else "--no-cache-prompt"
    return _Compiled(arguments=(flag,), is_exact=False, why="kept slot by slot, not block by block for all requests")


# ---------------------------------------------------------------- several GPUs


def _tensor_parallel(value: object, settings: Settings) -> _Compiled:
    size = int(str(value))
    if size == 1:
        if _is_split_by_layers(settings):
            return _Compiled(becomes="nothing", why="pipeline_parallel_size sets the split")
        return _Compiled(arguments=("--split-mode", "none"))
    return _split("row", size)


def _pipeline_parallel(value: object, settings: Settings) -> _Compiled:
    size = int(str(value))
    if size == 1:
        return _Compiled(becomes="nothing", why="layers are not split unless that is asked for")
    if settings.get("tensor_parallel_size", 1) != 1:
        return _Compiled(refused="llama.cpp splits a model in one way: set tensor or pipeline parallelism, not both")
    return _split("layer", size)


def _is_split_by_layers(settings: Settings) -> bool:
    return settings.get("pipeline_parallel_size", 1) != 1


def _split(mode: str, size: int) -> _Compiled:
    return _Compiled(
        arguments=("--split-mode", mode, "--tensor-split", ",".join(["1"] * size)),
        is_exact=False,
        why=f"in equal parts over the first {size} devices that it sees",
    )


# ---------------------------------------------------------------- speculation

_DRAFTING = ("speculative_draft_model", "speculative_ngram", "speculative_eagle")


def _draft(spec_type: str) -> _Rule:
    def rule(value: object, settings: Settings) -> _Compiled:
        if second := _second_draft(settings):
            return _Compiled(refused=second)
        if not str(value).endswith(".gguf"):
            return _Compiled(refused="give the path of the draft's GGUF file: llama.cpp loads nothing else")
        return _Compiled(arguments=("--spec-type", spec_type, "--spec-draft-model", str(value)))

    return rule


def _ngram(value: object, settings: Settings) -> _Compiled:
    if second := _second_draft(settings):
        return _Compiled(refused=second)
    arguments = ("--spec-type", "ngram-mod", "--spec-ngram-mod-n-min", "1", "--spec-ngram-mod-n-max", str(value))
    why = "looked up in what all requests of the server have seen, not in this prompt alone"
    return _Compiled(arguments=arguments, is_exact=False, why=why)


def _second_draft(settings: Settings) -> str:
    given = [setting for setting in settings if setting in _DRAFTING]
    return f"one way to draft at a time: {' and '.join(given)} are set" if len(given) > 1 else ""


# ---------------------------------------------------------------- the rest


def _seed(value: object, settings: Settings) -> _Compiled:
    return _Compiled(arguments=("--seed", str(int(str(value)) % SEED_MODULUS)), why="of requests without one")


def _served_model_name(value: object, settings: Settings) -> _Compiled:
    if "," in str(value):
        return _Compiled(refused="a comma separates names in --alias")
    return _Compiled(arguments=("--alias", str(value)))


def _log_level(value: object, settings: Settings) -> _Compiled:
    return _Compiled(arguments=("--verbosity", str(_VERBOSITY[str(value)])))


_RULES: Mapping[str, _Rule] = {
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
