"""Values that vLLM 0.32 knows for settings that are free text in a config."""

from __future__ import annotations

from collections.abc import Mapping

QUANTIZATION = (
    "awq", "auto_awq", "fp8", "fbgemm_fp8", "fp_quant", "modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed",
    "auto_gptq", "gptq", "gptq_marlin", "awq_marlin", "humming", "compressed-tensors", "experts_int8", "quark",
    "moe_wna16", "torchao", "inc", "mxfp4", "gpt_oss_mxfp4", "deepseek_v4_fp8", "online", "fp8_per_tensor",
    "fp8_per_block", "fp8_per_channel", "int8_per_channel_weight_only", "nvfp4_per_token", "mxfp8",
)  # fmt: skip
QUANTIZATION_DEPRECATED = ("fbgemm_fp8", "fp_quant")

QUANTIZATION_BY_OTHER_NAMES: Mapping[str, tuple[str, str]] = {
    "int8": (
        "int8_per_channel_weight_only",
        "vLLM has no method called int8; this one makes the weights int8 while loading and computes in 16 bits. "
        "A checkpoint that is int8 already needs no setting",
    ),
}
"""What people write -> (the method that is meant, why it is not the same word)."""

KV_CACHE_DTYPE = (
    "auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla", "nvfp4_ds_mla",
    "turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc", "ultraquant_4bit",
    "int4_per_token_head", "int8_per_token_head", "fp8_per_token_head", "nvfp4", "nvfp4_4over6",
)  # fmt: skip
KV_CACHE_DTYPE_HINTS: Mapping[str, str] = {"int8": "int8_per_token_head", "int4": "int4_per_token_head"}
