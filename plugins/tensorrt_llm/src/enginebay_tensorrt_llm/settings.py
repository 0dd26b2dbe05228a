"""Portable settings as what `trtllm-serve` (and the `LLM` object) take on the PyTorch path.

A flag where there is one, else a key of the options file, whose keys are the arguments of `LLM`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from enginebay.backend import SettingOutcome, Settings
from enginebay.backends.launch.second_model import second_model_argument
from enginebay.errors import ConfigError
from enginebay_tensorrt_llm.releases import Line

Keys = Mapping[str, object]
"""Arguments of `LLM` by dotted path (`kv_cache_config.dtype`)."""


NO_KEYS: Keys = MappingProxyType({})


class Become(NamedTuple):
    """What one setting became."""

    outcome: Literal["mapped", "approximated", "unsupported"]
    becomes: str = ""
    why: str = ""
    flags: tuple[str, ...] = ()
    keys: Keys = NO_KEYS
    in_file: bool = False
    """The keys are written to the options file; else the flags say the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    outcomes: tuple[SettingOutcome, ...]
    flags: tuple[str, ...] = ()
    file: Mapping[str, object] = field(default_factory=dict[str, object])
    """Of the options file, nested."""
    keywords: Mapping[str, object] = field(default_factory=dict[str, object])
    """Of the constructor, nested."""
    in_process_outcomes: tuple[SettingOutcome, ...] = ()
    """The same settings where there is no command line."""


class Asked(NamedTuple):
    settings: Settings
    line: Line
    num_draft_tokens: int


Rule = Callable[[Any, Asked], Become]


def compile_pytorch(settings: Settings, *, line: Line, num_draft_tokens: int) -> Compiled:
    """One outcome for each setting, in the order given."""
    asked = Asked(settings, line, num_draft_tokens)
    found = {name: RULES[name](value, asked) for name, value in settings.items()}
    keys = {path: value for become in found.values() for path, value in become.keys.items()}
    file = {path: value for become in found.values() if become.in_file for path, value in become.keys.items()}
    if any(path.startswith("kv_cache_config.") for path in file):
        # The file wins over the command line, and may do so with the whole object: the flag is said again there.
        file |= {path: value for path, value in keys.items() if path.startswith("kv_cache_config.")}
    return Compiled(
        outcomes=tuple(
            SettingOutcome(name, settings[name], become.outcome, become.becomes, become.why)
            for name, become in found.items()
        ),
        flags=tuple(flag for become in found.values() for flag in become.flags),
        file=nested(file),
        keywords=nested(keys),
        in_process_outcomes=tuple(_in_process(name, settings[name], become) for name, become in found.items()),
    )


def _in_process(name: str, value: object, become: Become) -> SettingOutcome:
    if become.outcome == "unsupported":
        return SettingOutcome(name, value, become.outcome, why=become.why)
    arguments = ", ".join(f"{path}={value!r}" for path, value in become.keys.items())
    becomes = f"LLM({arguments})" if arguments else _ELSEWHERE[name]
    return SettingOutcome(name, value, become.outcome, becomes, _IN_PROCESS_WHY.get(name, become.why))


_ELSEWHERE = {
    "seed": "a seed in every request that has none, drawn from this one",
    "served_model_name": "the model's name in reports",
    "log_level": "environment: TLLM_LOG_LEVEL",
}
_IN_PROCESS_WHY = {"served_model_name": "there is no server", "revision": "fetched at this revision"}


def nested(keys: Keys) -> dict[str, object]:
    """Dotted paths as objects in objects."""
    tree: dict[str, Any] = {}
    for path, value in keys.items():
        *parents, last = path.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree


# ---------------------------------------------------------------- one rule for each setting


def mapped_flag(flag: str, key: str) -> Rule:
    return lambda value, asked: Become("mapped", f"{flag} {value}", flags=(flag, str(value)), keys={key: value})


def _mapped_key(key: str, why: str = "") -> Rule:
    return lambda value, asked: _key(key, value, why)


def _key(key: str, value: object, why: str = "") -> Become:
    return Become("mapped", f"options file: {key}: {_yaml_word(value)}", why, keys={key: value}, in_file=True)


def _yaml_word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def unsupported(why: str) -> Become:
    return Become("unsupported", why=why)


def tokenizer(value: Any, asked: Asked) -> Become:
    try:
        return mapped_flag("--tokenizer", "tokenizer")(second_model_argument(value), asked)
    except ConfigError as error:
        return unsupported(error.problem)


def _revision(value: Any, asked: Asked) -> Become:
    if asked.line == "1.2":
        return _key("revision", value, "trtllm-serve 1.2 has no flag for it")
    return mapped_flag("--revision", "revision")(value, asked)


def _data_parallel(value: Any, asked: Asked) -> Become:
    if value == 1:
        return _key("enable_attention_dp", False)
    if value != asked.settings.get("tensor_parallel_size", 1):
        return unsupported(
            "one instance has attention data parallelism alone, across all its tensor-parallel GPUs: give "
            "tensor_parallel_size the same value, or run several instances behind a balancer"
        )
    why = "attention is replicated over the tensor-parallel GPUs, the other layers are still shared"
    return _key("enable_attention_dp", True)._replace(outcome="approximated", why=why)


def gpu_memory_fraction(value: Any, asked: Asked) -> Become:
    become = mapped_flag("--kv_cache_free_gpu_memory_fraction", "kv_cache_config.free_gpu_memory_fraction")
    why = "TensorRT-LLM takes this share of what is free after the weights are loaded, not of the whole GPU"
    return become(value, asked)._replace(outcome="approximated", why=why)


_KV_CACHE_DTYPES = ("auto", "fp8", "nvfp4")


def _kv_cache_dtype(value: Any, asked: Asked) -> Become:
    if value == "fp8_e4m3":
        return _key("kv_cache_config.dtype", "fp8", "fp8 is e4m3 here")
    if value in _KV_CACHE_DTYPES:
        return _key("kv_cache_config.dtype", value)
    return unsupported(f"the KV cache takes {', '.join(_KV_CACHE_DTYPES)} here")


def _chunked_prefill(value: Any, asked: Asked) -> Become:
    if not value:
        return _key("enable_chunked_prefill", False)
    flag = "--enable_chunked_prefill"
    return Become("mapped", flag, flags=(flag,), keys={"enable_chunked_prefill": True})


_SPECULATIVE = ("speculative_draft_model", "speculative_ngram", "speculative_eagle")


def _speculation(name: str, value: Any, asked: Asked) -> Become:
    first = next(setting for setting in asked.settings if setting in _SPECULATIVE)
    if first != name:
        return unsupported(f"one way of speculation at a time: {first} is given too")
    try:
        drafted = value if name == "speculative_ngram" else second_model_argument(value)
    except ConfigError as error:
        return unsupported(error.problem)
    config = _SPECULATION_CONFIGS[name](drafted, asked.num_draft_tokens)
    keys = {f"speculative_config.{key}": part for key, part in config.items()}
    words = ", ".join(f"{key}: {_yaml_word(part)}" for key, part in config.items())
    why = "" if name == "speculative_ngram" else "options.num_draft_tokens says how many are drafted"
    return Become("mapped", f"options file: speculative_config: {{{words}}}", why, keys=keys, in_file=True)


_SPECULATION_CONFIGS: Mapping[str, Callable[[Any, int], dict[str, object]]] = {
    "speculative_draft_model": lambda model, num_tokens: {
        "decoding_type": "Draft_Target", "max_draft_len": num_tokens, "speculative_model_dir": model,
    },
    "speculative_ngram": lambda num_tokens, _: {"decoding_type": "NGram", "max_draft_len": num_tokens},
    "speculative_eagle": lambda model, num_tokens: {
        "decoding_type": "Eagle", "max_draft_len": num_tokens, "speculative_model_dir": model,
        "eagle3_one_model": True,
    },
}  # fmt: skip


def _speculation_rule(name: str) -> Rule:
    return lambda value, asked: _speculation(name, value, asked)


def seed(value: Any, asked: Asked) -> Become:
    return Become(
        "approximated",
        "a seed in every request that has none, drawn from this one",
        "the engine has no seed of its own: it would use one fixed seed for all requests",
    )


def served_model_name(value: Any, asked: Asked) -> Become:
    return Become(
        "approximated",
        "the model's name in every request",
        "trtllm-serve accepts any name and lists the model under its own",
    )


def _trust_remote_code(value: Any, asked: Asked) -> Become:
    if not value:
        return Become("mapped", "no flag: off by default", keys={"trust_remote_code": False})
    flag = "--trust_remote_code"
    return Become("mapped", flag, flags=(flag,), keys={"trust_remote_code": True})


def log_level(value: Any, asked: Asked) -> Become:
    word = "verbose" if value == "debug" else value
    why = "what others call debug is verbose here" if value == "debug" else ""
    return Become("mapped", f"--log_level {word}", why, flags=("--log_level", word))


def _quantization(value: Any, asked: Asked) -> Become:
    return unsupported(
        "the PyTorch path takes the method from the checkpoint (hf_quant_config.json or config.json): give a quantised "
        "checkpoint as the model, or build an engine (options.path: engine)"
    )


RULES: Mapping[str, Rule] = {
    "tokenizer": tokenizer,
    "revision": _revision,
    "dtype": _mapped_key("dtype"),
    "quantization": _quantization,
    "tensor_parallel_size": mapped_flag("--tp_size", "tensor_parallel_size"),
    "pipeline_parallel_size": mapped_flag("--pp_size", "pipeline_parallel_size"),
    "data_parallel": _data_parallel,
    "max_num_seqs": mapped_flag("--max_batch_size", "max_batch_size"),
    "max_model_len": mapped_flag("--max_seq_len", "max_seq_len"),
    "max_num_batched_tokens": mapped_flag("--max_num_tokens", "max_num_tokens"),
    "gpu_memory_fraction": gpu_memory_fraction,
    "kv_cache_dtype": _kv_cache_dtype,
    "enable_prefix_caching": _mapped_key("kv_cache_config.enable_block_reuse"),
    "chunked_prefill": _chunked_prefill,
    "speculative_draft_model": _speculation_rule("speculative_draft_model"),
    "speculative_ngram": _speculation_rule("speculative_ngram"),
    "speculative_eagle": _speculation_rule("speculative_eagle"),
    "seed": seed,
    "served_model_name": served_model_name,
    "trust_remote_code": _trust_remote_code,
    "log_level": log_level,
}
