"""Flags of text-generation-launcher 3.3.7. Each can be given as an environment variable of the same name."""

from __future__ import annotations

from dataclasses import replace

from enginebay.errors import ConfigError
from enginebay.testing.simulators.flags import Flag, FlagTable, Values, boolean, clap_wording
from enginebay.testing.simulators.performance import SimulatorProfile
from enginebay.testing.simulators.vocabulary import vocabulary_of
from enginebay.testing.simulators.wire import DEFAULT_MODEL, Launch

PROGRAM = "text-generation-launcher"
DEFAULT_PREFILL_TOKENS = 4096
_QUANTIZATIONS = (
    "awq", "compressed-tensors", "eetq", "exl2", "gptq", "marlin", "bitsandbytes", "bitsandbytes-nf4",
    "bitsandbytes-fp4", "fp8",
)  # fmt: skip


def unsigned(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


def _flag(name: str, **more: object) -> Flag:
    return Flag(name, env=name.lstrip("-").replace("-", "_").upper(), **more)  # pyright: ignore[reportArgumentType]


FLAGS = FlagTable(
    wording=clap_wording(PROGRAM),
    flags=(
        _flag("--model-id"),
        _flag("--revision"),
        _flag("--dtype", choices=("float16", "bfloat16")),
        _flag("--quantize", choices=_QUANTIZATIONS),
        _flag("--num-shard", type=unsigned),
        _flag("--sharded", type=boolean),
        _flag("--max-concurrent-requests", type=unsigned, default=128),
        _flag("--max-batch-size", type=unsigned),
        _flag("--max-total-tokens", type=unsigned),
        _flag("--max-input-tokens", type=unsigned),
        _flag("--max-input-length", type=unsigned),
        _flag("--max-batch-prefill-tokens", type=unsigned),
        _flag("--max-batch-total-tokens", type=unsigned),
        _flag("--cuda-memory-fraction", type=float, default=1.0),
        _flag("--kv-cache-dtype", choices=("fp8_e4m3fn", "fp8_e5m2")),
        _flag("--speculate", type=unsigned),
        _flag("--hostname", default="0.0.0.0"),
        _flag("--port", type=unsigned, default=0),
        _flag("--prometheus-port", type=unsigned, default=9000),
        _flag("--master-port", type=unsigned, default=29500),
        _flag("--shard-uds-path", default="/tmp/text-generation-server"),
        _flag("--api-key"),
        _flag("--trust-remote-code", default=False, is_switch=True),
        _flag("--json-output", default=False, is_switch=True),
        _flag("--tokenizer-config-path"),
        _flag("--max-stop-sequences", type=unsigned, default=4),
        _flag("--max-best-of", type=unsigned, default=2),
        _flag("--max-top-n-tokens", type=unsigned, default=5),
        _flag("--max-client-batch-size", type=unsigned, default=4),
        _flag("--waiting-served-ratio", type=float, default=0.3),
        _flag("--max-waiting-tokens", type=unsigned, default=20),
        _flag("--validation-workers", type=unsigned, default=2),
        _flag("--cuda-graphs", default="1,2,4,8,16,32"),
        _flag("--enable-prefill-logprobs", default=False, is_switch=True),
        _flag("--payload-limit", type=unsigned, default=2_000_000),
        _flag("--usage-stats", default="on", choices=("on", "off", "no-stack")),
        _flag("--graceful-termination-timeout", type=unsigned, default=90),
        _flag("--disable-grammar-support", default=False, is_switch=True),
        # By environment alone: no argument begins without a dash.
        Flag("PREFIX_CACHING", type=boolean, default=True, env="PREFIX_CACHING"),
        Flag("PREFILL_CHUNKING", type=boolean, default=True, env="PREFILL_CHUNKING"),
    ),
)


def configure(values: Values, profile: SimulatorProfile) -> Launch:
    """Raises ConfigError with what the launcher says before it ends."""
    if values["dtype"] is not None and values["quantize"] is not None:
        raise ConfigError(
            "RuntimeError: Only 1 can be set between `dtype` and `quantize`, as they both decide how goes the final "
            "model."
        )
    max_total = _number(values, "max_total_tokens", profile.max_model_len)
    max_input = _number(values, "max_input_tokens", _number(values, "max_input_length", max_total - 1))
    prefill = _number(values, "max_batch_prefill_tokens", max(DEFAULT_PREFILL_TOKENS, max_input))
    if max_input >= max_total:
        raise _invalid("`max_input_tokens must be < `max_total_tokens`")
    if max_input > prefill:
        raise _invalid(f"`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: {prefill} and {max_input}")
    known = {**values, "max_total_tokens": max_total, "max_input_tokens": max_input}
    port = _number(values, "port", 0)
    return Launch(
        model=str(values["model_id"] or DEFAULT_MODEL),
        profile=_profile(known, profile, max_batch_prefill_tokens=prefill),
        values=known,
        port=port,
        vocabulary=vocabulary_of(values["model_id"]),
    )


def _profile(values: Values, profile: SimulatorProfile, *, max_batch_prefill_tokens: int) -> SimulatorProfile:
    num_kv_tokens = _number(values, "max_batch_total_tokens", max(profile.num_kv_tokens, _of(values)))
    return replace(
        profile,
        max_model_len=_of(values),
        max_num_batched_tokens=max_batch_prefill_tokens,
        max_num_seqs=_number(values, "max_batch_size", profile.max_num_seqs),
        num_blocks=-(-num_kv_tokens // profile.block_size),
        prefix_caching=bool(values["PREFIX_CACHING"]),
    )


def _of(values: Values) -> int:
    return _number(values, "max_total_tokens", 0)


def _number(values: Values, name: str, default: int) -> int:
    value = values[name]
    return default if value is None else int(str(value))


def _invalid(problem: str) -> ConfigError:
    return ConfigError(f'Error: ArgumentValidation("{problem}")')
