"""`options:` of an `openvino` backend: what no other engine has a word for."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class OpenVinoOptions(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    device: str = Field("CPU", pattern=r"^[A-Z]+(\.\d+)?$", description="OpenVINO's word: `CPU`, `GPU`, `GPU.1`.")
    cache_size_gb: Annotated[int, Field(ge=0)] = Field(
        0, description="Memory of the KV cache in GB; 0 lets it grow with the requests."
    )
    num_threads: Annotated[int, Field(ge=1)] | None = Field(None, description="CPU threads; else OpenVINO's choice.")
    properties: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Further properties of the device, by OpenVINO's own names."
    )
    convert_venv: str | None = Field(
        None, description="Virtual environment with optimum-intel, to convert the model where that was not done yet."
    )
    offline: bool = Field(False, description="Never fetch the model: it must be in the cache already.")
    start_timeout_s: Seconds = Field(600.0, description="How long the engine may take to load, conversion apart.")
    stop_timeout_s: Seconds = Field(15.0, description="How long it may take to end before it is killed.")
    log_file: str | None = Field(None, description="The engine's log is appended here; its last lines are kept anyway.")
