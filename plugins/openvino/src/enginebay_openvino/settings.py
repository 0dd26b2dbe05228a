"""What each portable setting becomes: SchedulerConfig, a property of the device, or the conversion of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from enginebay.backend import LaunchPlan, SettingOutcome, Settings

DEFAULT_WEIGHT_FORMAT = "fp16"
Section = Literal["scheduler", "properties", "adapter", "conversion"]
"""scheduler: attributes of SchedulerConfig; properties: of the compiled model; adapter: minded by our side of the
worker; conversion: the form of the model's files, settled before the worker starts."""
SECTIONS: tuple[Section, ...] = ("scheduler", "properties", "adapter", "conversion")

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CACHE_PRECISIONS = {
    "float32": "f32", "float16": "f16", "fp16": "f16", "bfloat16": "bf16", "int8": "u8", "uint8": "u8", "u8": "u8",
}  # fmt: skip
_WEIGHT_FORMATS = ("int8", "int4", "fp16", "fp32")
_LOG_LEVELS = {"debug": "LOG_DEBUG", "info": "LOG_INFO", "warning": "LOG_WARNING", "error": "LOG_ERROR"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiled:
    """Of one setting. `refused` says why there is nothing of it."""

    values: Mapping[Section, Mapping[str, object]] = field(default_factory=dict[Section, Mapping[str, object]])
    becomes: str = ""
    why: str = ""
    is_exact: bool = True
    refused: str = ""

    def outcome(self, setting: str, value: object) -> SettingOutcome:
        if self.refused:
            return SettingOutcome(setting, value, "unsupported", why=self.refused)
        return SettingOutcome(
            setting, value, "mapped" if self.is_exact else "approximated", self.becomes or self._spelled(), self.why
        )

    def _spelled(self) -> str:
        flat = ((section, name, value) for section, values in self.values.items() for name, value in values.items())
        return ", ".join(_spelled(section, name, value) for section, name, value in flat)


def _spelled(section: str, name: str, value: object) -> str:
    if section == "conversion":
        return f"optimum-cli --{name.replace('_', '-')} {value}"
    return f"SchedulerConfig.{name}={value}" if section == "scheduler" else f"property {name}={value}"


_Rule = Callable[[object], _Compiled]


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    """Pure. A setting that another one has decided already (dtype beside quantization) yields to it."""
    sections: dict[Section, dict[str, object]] = {section: {} for section in SECTIONS}
    outcomes: list[SettingOutcome] = []
    for name, value in settings.items():
        compiled = _RULES[name](value)
        outcomes.append(compiled.outcome(name, value))
        for section, values in compiled.values.items():
            sections[section].update(values)
    if "quantization" in settings and sections["conversion"]:
        sections["conversion"] |= _quantization(settings["quantization"]).values.get("conversion", {})
    return LaunchPlan(outcomes=tuple(outcomes), keywords={name: values for name, values in sections.items() if values})


# ---------------------------------------------------------------- one rule for each setting


def _scheduler(name: str) -> _Rule:
    return lambda value: _Compiled(values={"scheduler": {name: value}})


def _minded(why: str) -> _Rule:
    """The engine has no such notion; our side of the worker does it."""
    return lambda value: _Compiled(becomes=why)


def _refused(why: str) -> _Rule:
    return lambda value: _Compiled(refused=why)


def _one_only(what: str) -> _Rule:
    def rule(value: object) -> _Compiled:
        if value == 1:
            return _Compiled(becomes=f"one {what}, the only number there is")
        return _Compiled(refused=f"continuous batching runs on one {what}: use 1")

    return rule


def _dtype(value: object) -> _Compiled:
    """On a CPU the weights are kept in 16 bits and computed in the precision of the hint."""
    if value == "auto":
        return _Compiled(becomes="the device's own choice (bfloat16 on CPUs with AMX)")
    weight_format = "fp32" if value == "float32" else DEFAULT_WEIGHT_FORMAT
    return _Compiled(
        values={
            "properties": {"INFERENCE_PRECISION_HINT": _PRECISIONS[str(value)]},
            "conversion": {"weight_format": weight_format},
        },
        is_exact=value != "bfloat16",
        why="weights are stored as float16 and computed in bfloat16" if value == "bfloat16" else "",
    )


def _quantization(value: object) -> _Compiled:
    if value not in _WEIGHT_FORMATS:
        return _Compiled(refused=f"weights can be {', '.join(_WEIGHT_FORMATS)}")
    return _Compiled(
        values={"conversion": {"weight_format": value}},
        why="weights only; activations stay as they are" if str(value).startswith("int") else "",
    )


def _kv_cache_dtype(value: object) -> _Compiled:
    if value == "auto":
        return _Compiled(becomes="the device's own choice (8 bits on CPUs)")
    precision = _CACHE_PRECISIONS.get(str(value))
    if precision is None:
        return _Compiled(refused=f"the KV cache can be {', '.join(_CACHE_PRECISIONS)} or auto")
    return _Compiled(values={"properties": {"KV_CACHE_PRECISION": precision}})


def _max_num_seqs(value: object) -> _Compiled:
    return _Compiled(
        values={"scheduler": {"max_num_seqs": value}},
        becomes=f"SchedulerConfig.max_num_seqs={value}, and minded before the engine, which ignores it where it splits "
        "prompts",
    )


def _max_model_len(value: object) -> _Compiled:
    return _Compiled(
        values={"adapter": {"max_model_len": value}}, becomes="checked before the engine, which has no such limit"
    )


def _seed(value: object) -> _Compiled:
    return _Compiled(values={"adapter": {"seed": value}}, becomes="draws the rng_seed of requests without one")


def _trust_remote_code(value: object) -> _Compiled:
    becomes = "optimum-cli --trust-remote-code" if value else "no such flag for optimum-cli"
    return _Compiled(values={"conversion": {"trust_remote_code": value}}, becomes=becomes)


def _log_level(value: object) -> _Compiled:
    return _Compiled(values={"properties": {"LOG_LEVEL": _LOG_LEVELS[str(value)]}})


_RULES: Mapping[str, _Rule] = {
    "tokenizer": _refused("the tokenizer is converted with the model: put its files into the model's directory"),
    "revision": _minded("the revision that is fetched and converted"),
    "dtype": _dtype,
    "quantization": _quantization,
    "tensor_parallel_size": _one_only("device"),
    "pipeline_parallel_size": _one_only("device"),
    "data_parallel": _one_only("copy of the model"),
    "max_num_seqs": _max_num_seqs,
    "max_model_len": _max_model_len,
    "max_num_batched_tokens": _scheduler("max_num_batched_tokens"),
    "gpu_memory_fraction": _refused("the engine takes a size, no fraction: set options.cache_size_gb"),
    "kv_cache_dtype": _kv_cache_dtype,
    "enable_prefix_caching": _scheduler("enable_prefix_caching"),
    "chunked_prefill": _scheduler("dynamic_split_fuse"),
    "speculative_draft_model": _refused("the engine has it, this adapter does not offer it"),
    "speculative_ngram": _refused("the engine has it (prompt lookup), this adapter does not offer it"),
    "speculative_eagle": _refused("the engine has it, this adapter does not offer it"),
    "seed": _seed,
    "served_model_name": _minded("the model's name in answers"),
    "trust_remote_code": _trust_remote_code,
    "log_level": _log_level,
}
