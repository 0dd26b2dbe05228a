"""The flags of `vllm serve` 0.32 that the contract names."""

from __future__ import annotations

from enginebay.testing.simulators.flags import (
    Flag,
    FlagTable,
    argparse_wording,
    boolean,
    json_value,
    number_with_suffix,
    switch,
)

DEFAULT_MEMORY_FRACTION = 0.92
QUANTIZATIONS = (
    "awq", "auto_awq", "fp8", "fbgemm_fp8", "fp_quant", "modelopt", "modelopt_fp4", "modelopt_mxfp8",
    "modelopt_mixed", "auto_gptq", "gptq", "gptq_marlin", "awq_marlin", "humming", "compressed-tensors",
    "experts_int8", "quark", "moe_wna16", "torchao", "inc", "mxfp4", "gpt_oss_mxfp4", "deepseek_v4_fp8", "online",
    "fp8_per_tensor", "fp8_per_block", "fp8_per_channel", "int8_per_channel_weight_only", "nvfp4_per_token", "mxfp8",
)  # fmt: skip
KV_CACHE_DTYPES = (
    "auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla", "nvfp4_ds_mla",
    "turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc", "ultraquant_4bit",
    "int4_per_token_head", "int8_per_token_head", "fp8_per_token_head", "nvfp4", "nvfp4_4over6",
)  # fmt: skip
LOG_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET")
UVICORN_LOG_LEVELS = ("critical", "error", "warning", "info", "debug", "trace")


def model_len(text: str) -> int:
    """`auto` is -1: as long as fits."""
    return -1 if text == "auto" else number_with_suffix(text)


FLAGS = FlagTable(
    positional="model_tag",
    wording=argparse_wording("vllm serve"),
    flags=(
        Flag("--model"),
        Flag("--tokenizer"),
        Flag("--revision"),
        Flag("--tokenizer-revision"),
        Flag("--code-revision"),
        Flag("--dtype", default="auto", choices=("auto", "half", "float16", "bfloat16", "float", "float32")),
        Flag("--quantization", choices=QUANTIZATIONS, aliases=("-q",)),
        Flag("--tensor-parallel-size", int, 1, aliases=("-tp",)),
        Flag("--pipeline-parallel-size", int, 1, aliases=("-pp",)),
        Flag("--data-parallel-size", int, 1, aliases=("-dp",)),
        Flag("--max-num-seqs", int),
        Flag("--max-model-len", model_len),
        Flag("--max-num-batched-tokens", number_with_suffix),
        Flag(
            "--gpu-memory-utilization", float, DEFAULT_MEMORY_FRACTION, aliases=("--device-memory-utilization",)
        ),
        Flag("--kv-cache-dtype", default="auto", choices=KV_CACHE_DTYPES),
        Flag("--block-size", int),
        Flag("--num-gpu-blocks-override", int),
        switch("--enable-prefix-caching", default=None),
        switch("--enable-chunked-prefill", default=None),
        Flag("--speculative-config", json_value, aliases=("-sc",)),
        Flag("--spec-method"),
        Flag("--spec-model"),
        Flag("--spec-tokens", int),
        Flag("--seed", int, 0),
        Flag("--host"),
        Flag("--port", int),
        Flag("--api-key", takes_many=True, env="VLLM_API_KEY"),
        Flag("--served-model-name", takes_many=True),
        switch("--trust-remote-code"),
        Flag("--log-level", default="INFO", choices=LOG_LEVELS, env="VLLM_LOGGING_LEVEL"),
        Flag("--uvicorn-log-level", default="info", choices=UVICORN_LOG_LEVELS),
        Flag("--generation-config", default="auto"),
        Flag("--override-generation-config", json_value),
        Flag("--max-num-queued-reqs", int),
        Flag("--max-num-queued-tokens", number_with_suffix),
        Flag("--max-logprobs", int, 20),
        switch("--enable-force-include-usage"),
        switch("--enable-prompt-tokens-details"),
        switch("--enable-per-request-metrics"),
        switch("--disable-log-stats"),
        Flag("--stream-interval", int, 1),
        Flag("--sse-keep-alive-interval", int, 0),
        switch("--enforce-eager"),
        switch("--enable-scale-out"),
        # no flag: the environment alone
        Flag("VLLM_SERVER_DEV_MODE", boolean, default=False, env="VLLM_SERVER_DEV_MODE"),
    ),
)  # fmt: skip
