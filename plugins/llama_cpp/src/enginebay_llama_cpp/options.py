"""`options:` of a llama_cpp backend."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from enginebay.backends.http_engine.options import ServerOptions

PositiveInt = Annotated[int, Field(ge=1)]


class LlamaCppOptions(ServerOptions):
    gguf: str | None = Field(
        None, description="GGUF file to load, where the model's own directory does not hold exactly one."
    )
    hub_quantization: str | None = Field(
        None, description="Of `hf:owner/name`: which of its GGUF files, as in Q4_K_M; else llama.cpp chooses."
    )
    num_threads: PositiveInt | None = Field(None, description="Of the computation on the CPU (--threads).")
    num_gpu_layers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Layers kept on the GPU (--n-gpu-layers); else llama.cpp fits as many as it can."
    )
