"""What each portable setting becomes for vLLM: a flag of its server, and an argument of its engine in process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from enginebay.backend import LaunchPlan, SettingOutcome, Settings
from enginebay.backends.launch.second_model import second_model_argument
from enginebay.errors import ConfigError
from enginebay_vllm import choices

NEWEST_VERSION = "0.32.0"
NUM_DRAFT_TOKENS = 4
NUM_EAGLE_TOKENS = 3
PROMPT_LOOKUP_MIN, PROMPT_LOOKUP_MAX = 2, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mapped:
    """One setting compiled. `refused` says why there is nothing of it."""

    arguments: tuple[str, ...] = ()
    keywords: Mapping[str, object] = field(default_factory=dict[str, object])
    becomes: str = ""
    why: str = ""
    is_exact: bool = True
    refused: str = ""

    def outcome(self, setting: str, value: object) -> SettingOutcome:
        if self.refused:
            return SettingOutcome(setting, value, "unsupported", why=self.refused)
        outcome: Literal["mapped", "approximated"] = "mapped" if self.is_exact else "approximated"
        return SettingOutcome(setting, value, outcome, self.becomes or " ".join(self.arguments), self.why)


_Rule = Callable[[object], _Mapped]


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    outcomes: list[SettingOutcome] = []
    arguments: list[str] = []
    keywords: dict[str, object] = {}
    for name, value in settings.items():
        mapped = _refuse_second_draft(name, settings) or _RULES[name](value)
        outcomes.append(mapped.outcome(name, value))
        if not mapped.refused:
            arguments += mapped.arguments
            keywords |= mapped.keywords
    return LaunchPlan(
        outcomes=tuple(outcomes), arguments=tuple(arguments), keywords=keywords, notes=_notes_on_version(version)
    )


def _notes_on_version(version: str | None) -> tuple[str, ...]:
    if version is None or _minor(version) == _minor(NEWEST_VERSION):
        return ()
    return (f"the flags are those of vLLM {NEWEST_VERSION}: release {version} was not checked",)


def _minor(version: str) -> list[str]:
    return version.removeprefix("v").split("+")[0].split(".")[:2]


# ---------------------------------------------------------------- one rule for each setting


def _flag(flag: str, keyword: str) -> _Rule:
    return lambda value: _Mapped(arguments=(flag, str(value)), keywords={keyword: value})


def _place(rule: _Rule) -> _Rule:
    """Of a tokenizer or a second model: the directory or the name of the hub that the engine understands."""

    def placed(value: object) -> _Mapped:
        try:
            return rule(second_model_argument(str(value)))
        except ConfigError as error:
            return _Mapped(refused=error.problem)

    return placed


def _switch(flag: str, keyword: str) -> _Rule:
    def rule(value: object) -> _Mapped:
        return _Mapped(arguments=(f"--{flag}" if value else f"--no-{flag}",), keywords={keyword: value})

    return rule


def _quantization(value: object) -> _Mapped:
    method = str(value)
    if method in choices.QUANTIZATION_BY_OTHER_NAMES:
        meant, why = choices.QUANTIZATION_BY_OTHER_NAMES[method]
        return _Mapped(
            arguments=("--quantization", meant), keywords={"quantization": meant}, why=why, is_exact=False
        )  # fmt: skip
    if method not in choices.QUANTIZATION:
        return _Mapped(refused=_unknown_value("quantisation method", method, choices.QUANTIZATION))
    why = "deprecated in this release" if method in choices.QUANTIZATION_DEPRECATED else ""
    return _Mapped(arguments=("--quantization", method), keywords={"quantization": method}, why=why)


def _kv_cache_dtype(value: object) -> _Mapped:
    dtype = str(value)
    if dtype not in choices.KV_CACHE_DTYPE:
        hint = choices.KV_CACHE_DTYPE_HINTS.get(dtype)
        return _Mapped(refused=_unknown_value("KV cache type", dtype, choices.KV_CACHE_DTYPE, hint=hint))
    return _Mapped(arguments=("--kv-cache-dtype", dtype), keywords={"kv_cache_dtype": dtype})


def _unknown_value(what: str, value: str, known: tuple[str, ...], *, hint: str | None = None) -> str:
    close = [hint] if hint else get_close_matches(value, known, n=1, cutoff=0.5)
    remedy = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(known)}"
    return f"vLLM {NEWEST_VERSION} has no {what} called {value!r}; {remedy}"


def _log_level(value: object) -> _Mapped:
    level = str(value)
    return _Mapped(
        arguments=("--log-level", level.upper(), "--uvicorn-log-level", level), keywords={"log_level": level.upper()}
    )


# ---------------------------------------------------------------- speculation: one JSON for all of its settings

_DRAFTING = ("speculative_draft_model", "speculative_ngram", "speculative_eagle")


def _refuse_second_draft(name: str, settings: Settings) -> _Mapped | None:
    if name not in _DRAFTING:
        return None
    first = next(setting for setting in settings if setting in _DRAFTING)
    return None if name == first else _Mapped(refused=f"vLLM drafts in one way only, and {first} is set too")


def _draft_model(value: object) -> _Mapped:
    why = f"vLLM demands the number of drafted tokens: {NUM_DRAFT_TOKENS}"
    return _speculative({"method": "draft_model", "model": value, "num_speculative_tokens": NUM_DRAFT_TOKENS}, why)


def _ngram(value: object) -> _Mapped:
    config = {
        "method": "ngram",
        "num_speculative_tokens": value,
        "prompt_lookup_max": PROMPT_LOOKUP_MAX,
        "prompt_lookup_min": PROMPT_LOOKUP_MIN,
    }
    return _speculative(config, f"looked up by the last {PROMPT_LOOKUP_MIN} to {PROMPT_LOOKUP_MAX} tokens")


def _eagle(value: object) -> _Mapped:
    why = f"taken for an EAGLE-3 head, {NUM_EAGLE_TOKENS} tokens at a time"
    return _speculative({"method": "eagle3", "model": value, "num_speculative_tokens": NUM_EAGLE_TOKENS}, why)


def _speculative(config: Mapping[str, object], why: str) -> _Mapped:
    return _Mapped(
        arguments=("--speculative-config", json.dumps(config)), keywords={"speculative_config": config}, why=why
    )


_RULES: Mapping[str, _Rule] = {
    "tokenizer": _place(_flag("--tokenizer", "tokenizer")),
    "revision": _flag("--revision", "revision"),
    "dtype": _flag("--dtype", "dtype"),
    "quantization": _quantization,
    "tensor_parallel_size": _flag("--tensor-parallel-size", "tensor_parallel_size"),
    "pipeline_parallel_size": _flag("--pipeline-parallel-size", "pipeline_parallel_size"),
    "data_parallel": _flag("--data-parallel-size", "data_parallel_size"),
    "max_num_seqs": _flag("--max-num-seqs", "max_num_seqs"),
    "max_model_len": _flag("--max-model-len", "max_model_len"),
    "max_num_batched_tokens": _flag("--max-num-batched-tokens", "max_num_batched_tokens"),
    "gpu_memory_fraction": _flag("--gpu-memory-utilization", "gpu_memory_utilization"),
    "kv_cache_dtype": _kv_cache_dtype,
    "enable_prefix_caching": _switch("enable-prefix-caching", "enable_prefix_caching"),
    "chunked_prefill": _switch("enable-chunked-prefill", "enable_chunked_prefill"),
    "speculative_draft_model": _place(_draft_model),
    "speculative_ngram": _ngram,
    "speculative_eagle": _place(_eagle),
    "seed": _flag("--seed", "seed"),
    "served_model_name": _flag("--served-model-name", "served_model_name"),
    "trust_remote_code": _switch("trust-remote-code", "trust_remote_code"),
    "log_level": _log_level,
}
