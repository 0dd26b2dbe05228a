"""`options:` of a llama_cpp backend."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from enginebay.backends.http_engine.options import LAUNCHED, ServerOptions

PositiveInt = Annotated[int, Field(ge=1)]


class LlamaCppOptions(ServerOptions):
    gguf: str | None = Field(
        None,
        description="GGUF file to load, where the model's own directory does not hold exactly one.",
        json_schema_extra=LAUNCHED,
    )
    hub_quantization: str | None = Field(
        None,
        description="Of `hf:owner/name`: which of its GGUF files, as in Q4_K_M; else llama.cpp chooses.",
        json_schema_extra=LAUNCHED,
    )
    num_threads: PositiveInt | None = Field(
        None, description="Of the computation on the CPU (--threads).", json_schema_extra=LAUNCHED
    )
    num_gpu_layers: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Layers kept on the GPU (--n-gpu-layers); else llama.cpp fits as many as it can.",
        json_schema_extra=LAUNCHED,
    )
