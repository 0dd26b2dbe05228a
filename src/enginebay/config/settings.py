"""The portable engine settings: one vocabulary, compiled by each plugin into its engine's own flags."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from enginebay.config.secret import Text

PositiveInt = Annotated[int, Field(ge=1)]


class EngineSettings(BaseModel):
    """`engine:` of a config. A setting that is not given is left to the engine's own default."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    tokenizer: Text | None = Field(default=None, description="Directory or name of another tokenizer than the model's.")
    revision: Text | None = Field(default=None, description="Revision of the model on the hub.")
    dtype: Literal["auto", "float16", "bfloat16", "float32"] | None = Field(
        default=None, description="Weights and activations; `auto` is the stored one."
    )
    quantization: Text | None = Field(
        default=None,
        description="Quantisation method, in the engine's own word; the reference engine has `int8` and "
        "`int8_weight_only`.",
    )
    tensor_parallel_size: PositiveInt | None = Field(default=None, description="GPUs that share each layer.")
    pipeline_parallel_size: PositiveInt | None = Field(default=None, description="GPUs that share the stack of layers.")
    data_parallel: PositiveInt | None = Field(default=None, description="Copies of the model inside one engine.")
    max_num_seqs: PositiveInt | None = Field(default=None, description="Sequences computed at the same time.")
    max_model_len: PositiveInt | None = Field(default=None, description="Prompt and output together, in tokens.")
    max_num_batched_tokens: PositiveInt | None = Field(default=None, description="Tokens computed in one step.")
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Share of the GPU's memory for weights, one step and the KV cache together, above 0 up to 1; the "
        "reference engine on a CPU takes it of what is available.",
    )
    kv_cache_dtype: Text | None = Field(
        default=None,
        description="Type of the KV cache, in the engine's own word; the reference engine has `auto` (that of "
        "the model) and `int8`.",
    )
    enable_prefix_caching: bool | None = Field(
        default=None,
        description="Share the KV blocks of equal prefixes; a request's `cache_salt` keeps tenants apart.",
    )
    chunked_prefill: bool | None = Field(
        default=None, description="Compute long prompts in pieces, between decode steps."
    )
    speculative_draft_model: Text | None = Field(
        default=None, description="Draft model for speculative decoding, with the vocabulary of the model."
    )
    speculative_ngram: PositiveInt | None = Field(
        default=None, description="Most tokens drafted for a step by prompt lookup."
    )
    speculative_eagle: Text | None = Field(default=None, description="EAGLE head for speculative decoding.")
    seed: int | None = Field(default=None, description="Seed of the engine.")
    served_model_name: Text | None = Field(default=None, description="Name under which the API offers the model.")
    trust_remote_code: bool | None = Field(default=None, description="Run code that comes with the weights.")
    log_level: Literal["debug", "info", "warning", "error"] | None = Field(
        default=None, description="Of the engine's log."
    )

    def given(self) -> dict[str, object]:
        """Only the settings that were set."""
        return self.model_dump(exclude_none=True)
