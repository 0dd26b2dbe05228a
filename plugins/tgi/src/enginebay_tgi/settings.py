"""Portable settings as flags and environment of text-generation-launcher 3.3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from enginebay.backend import LaunchPlan, SettingOutcome, Settings

NEWEST_VERSION = "3.3.7"
KNOWN_SERIES = "3."
"""The flags are those of 3.3.7; other releases of TGI 3 take them too, those of TGI 2 not all."""
QUANTIZATIONS = frozenset(
    {
        "awq", "compressed-tensors", "eetq", "exl2", "gptq", "marlin", "bitsandbytes", "bitsandbytes-nf4",
        "bitsandbytes-fp4", "fp8",
    }
)  # fmt: skip
KV_CACHE_DTYPES = frozenset({"fp8_e4m3fn", "fp8_e5m2"})
_OTHER_KV_NAMES = {"fp8_e4m3": "fp8_e4m3fn", "fp8": "fp8_e4m3fn"}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What one setting becomes."""

    outcome: Literal["mapped", "approximated", "unsupported"] = "mapped"
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    becomes: str = ""
    why: str = ""


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    outcomes: list[SettingOutcome] = []
    arguments: list[str] = []
    environment: dict[str, str] = {}
    for setting, value in settings.items():
        compiled = _COMPILERS[setting](value, settings)
        arguments += compiled.arguments
        environment |= compiled.environment
        outcomes.append(SettingOutcome(setting, value, compiled.outcome, _shown(compiled), compiled.why))
    return LaunchPlan(
        outcomes=tuple(outcomes), arguments=tuple(arguments), environment=environment, notes=_notes(version)
    )


def _notes(version: str | None) -> tuple[str, ...]:
    notes = ["TGI is in maintenance: 3.3.7 is its last release"]
    if version is not None and version != NEWEST_VERSION:
        notes.append(f"the flags are those of {NEWEST_VERSION}; {version} was not checked")
    return tuple(notes)


def _shown(compiled: Compiled) -> str:
    if compiled.becomes:
        return compiled.becomes
    variables = [f"{name}={value}" for name, value in compiled.environment.items()]
    return " ".join([*variables, *compiled.arguments])


Compiler = Callable[[object, Settings], Compiled]


def _flag(name: str, why: str = "", *, outcome: Literal["mapped", "approximated"] = "mapped") -> Compiler:
    return lambda value, settings: Compiled(outcome, arguments=(name, str(value)), why=why)


def _switch_variable(name: str) -> Compiler:
    return lambda value, settings: Compiled(environment={name: "1" if value else "0"})


def _no(why: str) -> Compiler:
    return lambda value, settings: Compiled("unsupported", why=why)


def _one_only(why: str) -> Compiler:
    def compile_number(value: object, settings: Settings) -> Compiled:
        return Compiled(becomes="nothing: one is all TGI has") if value == 1 else Compiled("unsupported", why=why)

    return compile_number


def _dtype(value: object, settings: Settings) -> Compiled:
    if value == "auto":
        return Compiled(becomes="nothing: the checkpoint's own")
    if value == "float32":
        return Compiled("unsupported", why="TGI serves float16 and bfloat16 only")
    if settings.get("quantization") is not None:
        return Compiled("unsupported", why="TGI takes --dtype or --quantize, not both: leave dtype out")
    return Compiled(arguments=("--dtype", str(value)))


def _quantization(value: object, settings: Settings) -> Compiled:
    method = str(value).replace("_", "-")
    if method == "int8":
        why = "TGI has no `int8`: EETQ quantises the weights to int8 while loading, activations stay 16-bit"
        return Compiled("approximated", arguments=("--quantize", "eetq"), why=why)
    if method not in QUANTIZATIONS:
        return Compiled("unsupported", why=f"TGI has {', '.join(sorted(QUANTIZATIONS))}, not {value!r}")
    if method == "exl2" and _number(settings, "tensor_parallel_size") > 1:
        return Compiled("unsupported", why="exl2 cannot be spread over several GPUs")
    return Compiled(arguments=("--quantize", method))


def _batched_tokens(value: object, settings: Settings) -> Compiled:
    """The launcher refuses a prefill budget below the longest prompt, which is one less than the whole length."""
    why = "the prompt tokens of one prefill step; tokens of running sequences do not count toward it"
    num_tokens, longest_prompt = int(str(value)), _number(settings, "max_model_len") - 1
    if longest_prompt < 0:
        why += ". TGI does not start where the model takes longer prompts: set max_model_len as well"
    elif num_tokens < longest_prompt:
        why += f". Raised: TGI does not start with less than the longest prompt, {longest_prompt} of max_model_len"
        num_tokens = longest_prompt
    return Compiled("approximated", arguments=("--max-batch-prefill-tokens", str(num_tokens)), why=why)


def _kv_cache_dtype(value: object, settings: Settings) -> Compiled:
    name = str(value)
    if name == "auto":
        return Compiled(becomes="nothing: the type of the activations")
    name = _OTHER_KV_NAMES.get(name, name)
    if name not in KV_CACHE_DTYPES:
        return Compiled("unsupported", why=f"TGI has {', '.join(sorted(KV_CACHE_DTYPES))}, not {value!r}")
    return Compiled(arguments=("--kv-cache-dtype", name))


def _trust_remote_code(value: object, settings: Settings) -> Compiled:
    return Compiled(arguments=("--trust-remote-code",)) if value else Compiled(becomes="nothing: it is off")


def _log_level(value: object, settings: Settings) -> Compiled:
    return Compiled(environment={"LOG_LEVEL": "warn" if value == "warning" else str(value)})


def _number(settings: Settings, name: str) -> int:
    """0 where it is not set."""
    value = settings.get(name)
    return value if isinstance(value, int) else 0


_COMPILERS: Mapping[str, Compiler] = {
    "tokenizer": _no("TGI takes the tokenizer from the model's own directory"),
    "revision": _flag("--revision"),
    "dtype": _dtype,
    "quantization": _quantization,
    "tensor_parallel_size": _flag("--num-shard"),
    "pipeline_parallel_size": _one_only("TGI shares layers between GPUs, not the stack of them"),
    "data_parallel": _one_only("TGI has one copy of a model in one server: run several servers"),
    "max_num_seqs": _flag(
        "--max-concurrent-requests",
        "a limit of admission, not of the batch: more requests are refused with 429, and how many of the admitted run "
        "together follows from the token budget",
        outcome="approximated",
    ),
    "max_model_len": _flag("--max-total-tokens"),
    "max_num_batched_tokens": _batched_tokens,
    "gpu_memory_fraction": _flag("--cuda-memory-fraction"),
    "kv_cache_dtype": _kv_cache_dtype,
    "enable_prefix_caching": _switch_variable("PREFIX_CACHING"),
    "chunked_prefill": _switch_variable("PREFILL_CHUNKING"),
    "speculative_draft_model": _no("TGI drafts with Medusa or MLP heads of the checkpoint, or with n-grams"),
    "speculative_ngram": _flag("--speculate", "n-grams where the checkpoint has no heads of its own to draft with"),
    "speculative_eagle": _no("TGI has no EAGLE"),
    "seed": _no("TGI has no seed of the engine: give each request one"),
    "served_model_name": _no("TGI always serves a model under its own id"),
    "trust_remote_code": _trust_remote_code,
    "log_level": _log_level,
}
