"""Portable settings on the legacy path: what is baked into a TensorRT engine, and what is said when it is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from enginebay.backend import SettingOutcome, Settings
from enginebay.errors import ConfigError
from enginebay_tensorrt_llm.options import TensorrtLlmOptions
from enginebay_tensorrt_llm.settings import (
    Asked,
    Become,
    gpu_memory_fraction,
    log_level,
    seed,
    served_model_name,
    tokenizer,
    unsupported,
)

QUANT_ALGOS = (
    "W8A16", "W4A16", "W4A16_AWQ", "W4A8_AWQ", "W8A16_GPTQ", "W4A16_GPTQ", "W8A8_SQ_PER_CHANNEL",
    "W8A8_SQ_PER_TENSOR_PLUGIN", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN", "W4A8_QSERVE_PER_GROUP", "W4A8_QSERVE_PER_CHANNEL", "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN", "FP8_BLOCK_SCALES", "INT8", "MIXED_PRECISION", "NVFP4",
)  # fmt: skip
_COMMON_WORDS = {
    "int8": "W8A16",
    "int4": "W4A16",
    "awq": "W4A16_AWQ",
    "gptq": "W4A16_GPTQ",
    "smoothquant": "W8A8_SQ_PER_CHANNEL",
}
_KV_CACHE_ALGOS = {"auto": None, "fp8": "FP8", "fp8_e4m3": "FP8", "int8": "INT8", "nvfp4": "NVFP4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBuild:
    """The numbers of one engine. None is left to TensorRT-LLM."""

    max_batch_size: int | None = None
    max_input_len: int | None = None
    max_seq_len: int | None = None
    """Prompt and output together."""
    max_num_tokens: int | None = None
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    needs_paged_context: bool = False
    """Chunked prefill and the reuse of blocks work on a paged context only, which is chosen at build time."""

    @property
    def world_size(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size


def engine_build(settings: Settings, options: TensorrtLlmOptions) -> EngineBuild:
    """Raises ConfigError where the lengths contradict each other. The settings are ones that compile."""
    quantization = settings.get("quantization")
    return EngineBuild(
        max_batch_size=_int(settings.get("max_num_seqs")),
        max_input_len=options.max_input_len,
        max_seq_len=_max_seq_len(settings, options),
        max_num_tokens=_int(settings.get("max_num_batched_tokens")),
        dtype=str(settings.get("dtype", "auto")),
        tensor_parallel_size=_int(settings.get("tensor_parallel_size")) or 1,
        pipeline_parallel_size=_int(settings.get("pipeline_parallel_size")) or 1,
        quant_algo=None if quantization is None else _quant_algo(str(quantization)),
        kv_cache_quant_algo=_KV_CACHE_ALGOS.get(str(settings.get("kv_cache_dtype", "auto"))),
        revision=None if "revision" not in settings else str(settings["revision"]),
        trust_remote_code=bool(settings.get("trust_remote_code", False)),
        needs_paged_context=bool(settings.get("chunked_prefill") or settings.get("enable_prefix_caching")),
    )


def _max_seq_len(settings: Settings, options: TensorrtLlmOptions) -> int | None:
    whole = _int(settings.get("max_model_len"))
    if options.max_output_len is None:
        return whole
    if options.max_input_len is None:
        raise ConfigError("max_output_len needs max_input_len beside it", path="options.max_output_len")
    total = options.max_input_len + options.max_output_len
    if whole is not None and whole != total:
        raise ConfigError(
            f"max_input_len and max_output_len are {total} tokens together, max_model_len is {whole}",
            path="options.max_output_len",
            expected="one of the two",
        )
    return total


def _int(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _quant_algo(word: str) -> str | None:
    algo = _COMMON_WORDS.get(word.lower(), word.upper())
    return algo if algo in QUANT_ALGOS else None


# ---------------------------------------------------------------- outcomes


class EnginePlan(NamedTuple):
    outcomes: tuple[SettingOutcome, ...]
    serve_flags: tuple[str, ...]
    """Of `trtllm-serve` with the engine's folder."""


def compile_engine(settings: Settings, *, api: str) -> EnginePlan:
    asked = Asked(settings, "1.2", 0)
    found = {name: _rules(api)[name](value, asked) for name, value in settings.items()}
    return EnginePlan(
        tuple(
            SettingOutcome(name, settings[name], become.outcome, become.becomes, become.why)
            for name, become in found.items()
        ),
        tuple(flag for become in found.values() for flag in become.flags),
    )


_EngineRule = Callable[[Any, Asked], Become]


def _rules(api: str) -> Mapping[str, _EngineRule]:
    return {**RULES, **_TRITON} if api == "triton" else RULES


def _built(flag: str) -> _EngineRule:
    return lambda value, asked: Become("mapped", f"built into the engine: {flag} {value}")


def _only_one(value: Any, asked: Asked) -> Become:
    if value == 1:
        return Become("mapped", "one copy")
    return unsupported("an engine is one copy of the model: run several servers behind a balancer")


def _quantization(value: Any, asked: Asked) -> Become:
    algo = _quant_algo(value)
    if algo is None:
        return unsupported(f"TensorRT-LLM knows {', '.join(QUANT_ALGOS)}")
    become = Become("mapped", f"built into the engine: QuantConfig(quant_algo={algo})")
    if algo == value.upper():
        return become
    return become._replace(outcome="approximated", why=f"{value} can mean several methods: {algo} is meant here")


def _kv_cache_dtype(value: Any, asked: Asked) -> Become:
    if value not in _KV_CACHE_ALGOS:
        return unsupported(f"the KV cache of an engine takes {', '.join(_KV_CACHE_ALGOS)}")
    algo = _KV_CACHE_ALGOS[value]
    return Become("mapped", f"built into the engine: kv_cache_quant_algo={algo}" if algo else "the model's own type")


def _prefix_caching(value: Any, asked: Asked) -> Become:
    return Become("mapped", f"kv_cache_config.enable_block_reuse: {str(value).lower()}, on a paged context")


def _chunked_prefill(value: Any, asked: Asked) -> Become:
    flags = ("--enable_chunked_prefill",) if value else ()
    return Become("mapped", "--enable_chunked_prefill, on a paged context" if value else "off by default", flags=flags)


def _no_speculation(value: Any, asked: Asked) -> Become:
    return unsupported("speculation is rendered for the PyTorch path alone (options.path: pytorch)")


RULES: Mapping[str, _EngineRule] = {
    "tokenizer": tokenizer,
    "revision": lambda value, asked: Become("mapped", f"build_engine.py: LLM(revision={value!r})"),
    "dtype": _built("--dtype"),
    "quantization": _quantization,
    "tensor_parallel_size": _built("--tp_size"),
    "pipeline_parallel_size": _built("--pp_size"),
    "data_parallel": _only_one,
    "max_num_seqs": _built("--max_batch_size"),
    "max_model_len": _built("--max_seq_len"),
    "max_num_batched_tokens": _built("--max_num_tokens"),
    "gpu_memory_fraction": gpu_memory_fraction,
    "kv_cache_dtype": _kv_cache_dtype,
    "enable_prefix_caching": _prefix_caching,
    "chunked_prefill": _chunked_prefill,
    "speculative_draft_model": _no_speculation,
    "speculative_ngram": _no_speculation,
    "speculative_eagle": _no_speculation,
    "seed": seed,
    "served_model_name": served_model_name,
    "trust_remote_code": lambda value, asked: Become("mapped", f"build_engine.py: LLM(trust_remote_code={value})"),
    "log_level": log_level,
}


def _parameter(name: str) -> _EngineRule:
    def rule(value: Any, asked: Asked) -> Become:
        word = str(value).lower() if isinstance(value, bool) else value
        return Become("mapped", f"model repository: {name}: {word}")

    return rule


def _fraction_parameter(value: Any, asked: Asked) -> Become:
    why = gpu_memory_fraction(value, asked).why
    return Become("approximated", f"model repository: kv_cache_free_gpu_mem_fraction: {value}", why)


_TRITON: Mapping[str, _EngineRule] = {
    "tokenizer": _parameter("tokenizer_dir"),
    "gpu_memory_fraction": _fraction_parameter,
    "enable_prefix_caching": _parameter("enable_kv_cache_reuse"),
    "chunked_prefill": _parameter("enable_chunked_context"),
    "served_model_name": lambda value, asked: unsupported("Triton calls its models by their folders: ensemble"),
    "log_level": lambda value, asked: unsupported("tritonserver has other flags: see its --log-verbose"),
}
