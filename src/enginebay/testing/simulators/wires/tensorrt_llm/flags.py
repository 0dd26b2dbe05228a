"""The launch flags of `trtllm-serve`, and the options file that goes before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from ruamel.yaml import YAML, YAMLError

from enginebay.errors import ConfigError
from enginebay.testing.simulators.flags import Flag, FlagTable, Values, click_wording
from enginebay.testing.simulators.performance import SimulatorProfile
from enginebay.testing.simulators.vocabulary import vocabulary_of
from enginebay.testing.simulators.wire import DEFAULT_MODEL, Launch

Release = Literal["1.2", "1.3", "1.4"]
RELEASES = ("1.2", "1.3", "1.4")
DEFAULT_FRACTION = 0.9
_WORDING = click_wording("trtllm-serve")
_SINCE_1_3 = ("revision", "tool_parser", "chat_template", "otlp_traces_endpoint", "config")
_OWN_FLAG = Flag("--simulated_release", choices=RELEASES, default="1.2", env="ENGINEBAY_SIMULATED_RELEASE")
"""Which release line is played: the one flag that the real program does not have."""
FLAGS = FlagTable(
    flags=(
        _OWN_FLAG,
        Flag("--tokenizer"),
        Flag("--host", default="localhost"),
        Flag("--port", int, 0),
        Flag("--backend", default="pytorch", choices=("pytorch", "tensorrt", "_autodeploy")),
        Flag("--log_level", default="info", choices=("internal_error", "error", "warning", "info", "verbose")),
        Flag("--max_beam_width", int, 1),
        Flag("--max_batch_size", int),
        Flag("--max_num_tokens", int),
        Flag("--max_seq_len", int),
        Flag("--tp_size", int, 1),
        Flag("--pp_size", int, 1),
        Flag("--ep_size", int),
        Flag("--gpus_per_node", int),
        Flag("--kv_cache_free_gpu_memory_fraction", float, DEFAULT_FRACTION),
        Flag("--num_postprocess_workers", int, 0),
        Flag("--trust_remote_code", is_switch=True, default=False),
        Flag("--enable_chunked_prefill", is_switch=True, default=False),
        Flag("--fail_fast_on_attention_window_too_large", is_switch=True, default=False),
        Flag("--extra_llm_api_options"),
        Flag("--reasoning_parser"),
        Flag("--metadata_server_config_file"),
        Flag("--server_role"),
        Flag("--revision"),
        Flag("--tool_parser"),
        Flag("--chat_template"),
        Flag("--otlp_traces_endpoint"),
        Flag("--config"),
    ),
    positional="model",
    wording=_WORDING,
)
_FILE_KEYS = frozenset(
    {
        "dtype", "revision", "tokenizer", "tokenizer_mode", "tokenizer_revision", "trust_remote_code", "quant_config",
        "tensor_parallel_size", "pipeline_parallel_size", "enable_attention_dp", "max_batch_size", "max_seq_len",
        "max_num_tokens", "max_beam_width", "kv_cache_config", "enable_chunked_prefill", "speculative_config",
        "scheduler_config", "return_perf_metrics", "perf_metrics_max_requests", "enable_iter_perf_stats",
        "enable_iter_req_stats", "print_iter_log", "guided_decoding_backend", "skip_tokenizer_init",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What flags and file say together, as far as it changes what is simulated."""

    release: Release
    has_prometheus: bool
    has_iteration_stats: bool
    has_guided_decoding: bool


def options_of(values: Values) -> ServeOptions:
    file = _file(values)
    return ServeOptions(
        release=cast(Release, values["simulated_release"]),
        has_prometheus=file.get("return_perf_metrics") is True,
        has_iteration_stats=file.get("enable_iter_perf_stats") is True,
        has_guided_decoding=file.get("guided_decoding_backend") is not None,
    )


def configure(values: Values, profile: SimulatorProfile) -> Launch:
    """Raises ConfigError for a flag of a later line, as an unknown one, and for unknown keys of the file."""
    if values["simulated_release"] == "1.2":
        for name in _SINCE_1_3:
            if values[name] is not None:
                raise ConfigError(_WORDING("unknown", f"--{name}", "", ()))
    file = _file(values)
    cache = cast("Mapping[str, Any]", file.get("kv_cache_config") or {})
    fraction = cast(float, cache.get("free_gpu_memory_fraction", values["kv_cache_free_gpu_memory_fraction"]))
    block_size = cast(int, cache.get("tokens_per_block", profile.block_size))
    profile = replace(
        profile,
        max_num_seqs=file.get("max_batch_size") or values["max_batch_size"] or profile.max_num_seqs,
        max_num_batched_tokens=file.get("max_num_tokens") or values["max_num_tokens"] or profile.max_num_batched_tokens,
        max_model_len=file.get("max_seq_len") or values["max_seq_len"] or profile.max_model_len,
        num_blocks=round(profile.num_kv_tokens * fraction / DEFAULT_FRACTION) // block_size,
        block_size=block_size,
        prefix_caching=cache.get("enable_block_reuse", True),
    )  # fmt: skip
    vocabulary, port = vocabulary_of(values["tokenizer"] or values["model"]), cast(int, values["port"])
    return Launch(model=_model(values), profile=profile, values=values, port=port, vocabulary=vocabulary)


def _model(values: Values) -> str:
    """The server lists a folder by its name alone."""
    model = cast("str | None", values["model"]) or DEFAULT_MODEL
    return Path(model).name if model.startswith(("/", ".", "~")) else model


def _file(values: Values) -> Mapping[str, Any]:
    path = cast("str | None", values["extra_llm_api_options"] or values["config"])
    if path is None:
        return {}
    try:
        file = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", path="--extra_llm_api_options") from error
    if unknown := sorted(set(file) - _FILE_KEYS):
        raise ConfigError(f"ValueError: LLM got unexpected keyword arguments: {', '.join(unknown)}")
    return file
