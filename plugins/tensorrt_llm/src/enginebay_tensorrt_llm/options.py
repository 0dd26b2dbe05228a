"""`options:` of a tensorrt_llm backend."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from enginebay.backends.http_engine.options import LAUNCHED, OWNED, SERVED, ServerOptions

PositiveInt = Annotated[int, Field(ge=1)]


class TensorrtLlmOptions(ServerOptions):
    version: str | None = Field(
        None, description="Release of the engine, on which its flags and what it can do depend; else the newest known."
    )
    api: Literal["openai", "triton"] = Field(
        "openai", description="What the server is: trtllm-serve, or Triton with its generate endpoints."
    )
    path: Literal["pytorch", "engine"] = Field(
        "pytorch",
        description="How the model is run; `engine` is the legacy path: a TensorRT engine built beforehand.",
        json_schema_extra=OWNED,
    )
    num_draft_tokens: PositiveInt = Field(
        4, description="Drafted for each step of speculation with a draft model.", json_schema_extra=OWNED
    )
    prometheus_metrics: bool = Field(
        True,
        description="Launch with return_perf_metrics: without it there is no /prometheus/metrics.",
        json_schema_extra=LAUNCHED,
    )
    iteration_stats: bool = Field(
        True,
        description="Launch with enable_iter_perf_stats: without it no gauge and an empty /metrics.",
        json_schema_extra=OWNED,
    )
    guided_decoding_backend: Literal["xgrammar", "llguidance"] | None = Field(
        None,
        description="Launch with it, or say that the server has it: response_format needs it.",
        json_schema_extra=SERVED,
    )
    tool_parser: str | None = Field(
        None, description="Turns a model's tool calls into fields; from release 1.3 on.", json_schema_extra=SERVED
    )
    token_ids_only: bool = Field(
        False,
        description="Ask for token ids instead of text (detokenize: false); the engine never gives both.",
        json_schema_extra=SERVED,
    )
    engine_directory: str | None = Field(
        None, description="Path `engine`: the folder of the built engine.", json_schema_extra=LAUNCHED
    )
    max_input_len: PositiveInt | None = Field(
        None, description="Path `engine`: longest prompt the engine takes.", json_schema_extra=LAUNCHED
    )
    max_output_len: PositiveInt | None = Field(
        None, description="Path `engine`: longest output, where no max_model_len says it.", json_schema_extra=LAUNCHED
    )
    triton_model: Literal["ensemble", "tensorrt_llm_bls"] = Field(
        "ensemble",
        description="API `triton`: the model of the repository that requests go to.",
        json_schema_extra=SERVED,
    )
    metrics_url: str | None = Field(
        None,
        description="API `triton`: where its metrics are; else port 8002 of the same host.",
        json_schema_extra=SERVED,
    )

    @model_validator(mode="after")
    def _demand_matching(self) -> Self:
        if self.path == "pytorch":
            for name in ("engine_directory", "max_input_len", "max_output_len"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is of the engine path alone: set path: engine")
        if self.api == "triton":
            if self.token_ids_only:
                raise ValueError("token_ids_only needs api: openai: Triton's ensemble gives text alone")
            if self.tool_parser is not None or self.guided_decoding_backend is not None:
                raise ValueError("tool_parser and guided_decoding_backend are of trtllm-serve: set api: openai")
        elif self.metrics_url is not None:
            raise ValueError("metrics_url is Triton's: trtllm-serve has its metrics at its own address")
        return self
