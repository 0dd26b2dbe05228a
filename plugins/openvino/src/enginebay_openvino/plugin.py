"""Entry point of the kind `openvino`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from enginebay.backend import Backend, BackendContext, BackendSpec
from enginebay.errors import ConfigError
from enginebay.hookspecs import hookimpl
from enginebay.models.progress import ProgressCallback
from enginebay_openvino.backend import openvino_backend, with_options
from enginebay_openvino.capabilities import capabilities
from enginebay_openvino.conversion import convert
from enginebay_openvino.options import OpenVinoOptions
from enginebay_openvino.settings import DEFAULT_WEIGHT_FORMAT, compile_settings

EVIDENCE = "ran real (OpenVINO GenAI 2026.4.1; 2026-11-22; 2-core x86-64 CPU); Intel GPUs: not run"
WeightFormat = Literal["fp16", "fp32", "int8", "int4"]


@hookimpl
def enginebay_backend() -> BackendSpec:
    return BackendSpec(
        kind="openvino",
        options_model=OpenVinoOptions,
        capabilities=capabilities,
        compile=compile_settings,
        create=create,
        modes=("in_process",),
        launch=with_options,
        in_process_takes=("venv", "environment"),
        convert=convert_for_command_line,
        evidence=EVIDENCE,
    )


def create(context: BackendContext) -> Backend:
    return openvino_backend(context)


def convert_for_command_line(
    source: Path, *, weight_format: str | None, venv: str | None, progress: ProgressCallback
) -> Path:
    """`enginebay models convert SOURCE --to openvino`."""
    wanted = weight_format or DEFAULT_WEIGHT_FORMAT
    if wanted not in get_args(WeightFormat):
        raise ConfigError(
            f"there is no weight format {wanted!r}", path="--weight-format", expected=", ".join(get_args(WeightFormat))
        )
    return convert(source, weight_format=wanted, venvs=(venv,), progress=progress)
