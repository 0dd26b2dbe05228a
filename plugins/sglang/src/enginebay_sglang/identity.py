"""What SGLang says of itself in /server_info, in the words of all engines."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from enginebay.errors import UpstreamError

# Portable name -> the server's argument, as its resolution left it.
_ARGUMENTS: Mapping[str, str] = {
    "tokenizer": "tokenizer_path",
    "revision": "revision",
    "dtype": "dtype",
    "quantization": "quantization",
    "tensor_parallel_size": "tp_size",
    "pipeline_parallel_size": "pp_size",
    "data_parallel": "dp_size",
    "max_num_seqs": "max_running_requests",
    "max_model_len": "context_length",
    "max_num_batched_tokens": "max_prefill_tokens",
    "gpu_memory_fraction": "mem_fraction_static",
    "kv_cache_dtype": "kv_cache_dtype",
    "seed": "random_seed",
    "served_model_name": "served_model_name",
    "trust_remote_code": "trust_remote_code",
    "log_level": "log_level",
    # its own
    "model_path": "model_path",
    "chunked_prefill_size": "chunked_prefill_size",
    "speculative_algorithm": "speculative_algorithm",
    "enable_deterministic_inference": "enable_deterministic_inference",
    "incremental_streaming_output": "incremental_streaming_output",
    "sampling_defaults": "sampling_defaults",
    "max_total_num_tokens": "max_total_num_tokens",
}
ServerInfo = Mapping[str, object]


def read_server_info(body: bytes, *, backend: str) -> ServerInfo:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError(f"/server_info is not that of SGLang: {error}", backend=backend) from error


def effective_settings(info: ServerInfo) -> dict[str, object]:
    """Null stands for "left to the server": then the value is unknown, and absent."""
    told = {name: info[argument] for name, argument in _ARGUMENTS.items() if info.get(argument) is not None}
    if isinstance(is_off := info.get("disable_radix_cache"), bool):
        told["enable_prefix_caching"] = not is_off
    if isinstance(size := info.get("chunked_prefill_size"), int):
        told["chunked_prefill"] = size > 0
    return told
