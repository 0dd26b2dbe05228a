"""Every argument of the made-up classes: a test holds them to the contract."""

from __future__ import annotations

from collections.abc import Mapping

CONSTRUCTOR = (
    "model", "tokenizer", "tokenizer_mode", "skip_tokenizer_init", "trust_remote_code", "dtype", "revision",
    "tokenizer_revision", "tensor_parallel_size", "pipeline_parallel_size", "kv_cache_config", "speculative_config",
    "max_batch_size", "max_num_tokens", "max_seq_len", "max_beam_width", "enable_chunked_prefill", "scheduler_config",
    "return_perf_metrics", "enable_iter_perf_stats", "guided_decoding_backend",
)  # fmt: skip
SAMPLING_PARAMS: Mapping[str, object] = {
    "max_tokens": 32, "min_tokens": None, "n": 1, "best_of": None, "use_beam_search": False, "temperature": None,
    "top_p": None, "top_k": None, "min_p": None, "seed": None, "stop": None, "stop_token_ids": None,
    "include_stop_str_in_output": False, "bad": None, "end_id": None, "pad_id": None, "ignore_eos": False,
    "repetition_penalty": None, "presence_penalty": None, "frequency_penalty": None, "length_penalty": None,
    "logprobs": None, "prompt_logprobs": None, "return_perf_metrics": False, "detokenize": True,
    "add_special_tokens": True, "skip_special_tokens": True, "guided_decoding": None,
}  # fmt: skip
