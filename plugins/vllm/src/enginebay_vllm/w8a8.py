"""A model as the int8 checkpoint that vLLM computes with its int8 kernels: the format of compressed-tensors, W8A8.

Every projection of a layer has int8 weights, symmetric, one scale for each output channel, which stands beside it as
`weight_scale`; activations are quantised by token while it runs. Embedding, norms and head stay as they are. The result
needs no setting: vLLM reads `quantization_config` in its config.json.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from enginebay.errors import ConfigError, ModelError, PluginError
from enginebay.models.cache import MANIFEST
from enginebay.models.conversion import Conversion, converted_model
from enginebay.models.progress import ProgressCallback, PullProgress

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_FORMAT = "w8a8"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LARGEST = 127
_INDEX = "model.safetensors.index.json"
BESIDE_THE_WEIGHTS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt", "LICENSE*")
"""Configuration, tokenizer and chat template, in all their forms."""


def convert(source: Path, *, weight_format: str | None, venv: str | None, progress: ProgressCallback) -> Path:
    """`enginebay models convert SOURCE --to vllm`. venv is not needed: this is done here."""
    if weight_format not in (None, WEIGHT_FORMAT):
        raise ConfigError(
            f"there is no weight format {weight_format!r}", path="--weight-format", expected=WEIGHT_FORMAT
        )
    conversion = Conversion(source=source, target="vllm", variant=WEIGHT_FORMAT, tools={"torch": _torch_version()})
    return converted_model(conversion, lambda directory: _write(source, directory, progress), progress=progress)


def _torch_version() -> str:
    try:
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise PluginError(f"to quantise a model takes {error.name}: pip install 'enginebay[engine]'") from error
    return version("torch")


def _write(source: Path, directory: Path, progress: ProgressCallback) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config:
        raise ModelError(f"{source} is quantised already; convert the model that it was made of")
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{source} has no safetensors files; fetch the model again")
    placed: dict[str, str] = {}
    for path in files:
        progress(PullProgress(f"quantising {path.name}"))
        try:
            tensors = quantised(load_file(path))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {error}; fetch the model again") from error
        save_file(tensors, directory / path.name, metadata={"format": "pt"})
        placed |= dict.fromkeys(tensors, path.name)
    if not any(name.endswith(".weight_scale") for name in placed):
        raise ModelError(
            f"{source} has none of the projections {', '.join(PROJECTIONS)}: not a model of the Llama family"
        )
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": placed}
        (directory / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    config["quantization_config"] = quantization_config()
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in {path for form in BESIDE_THE_WEIGHTS for path in source.glob(form)}:
        if path.name not in ("config.json", _INDEX, MANIFEST):
            shutil.copy(path, directory)


def quantised(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With each projection's weight in int8 and its scales, (out_features, 1) float32, beside it."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.endswith(tuple(f".{projection}.weight" for projection in PROJECTIONS)):
            result[name] = tensor
            continue
        exact = tensor.float()
        scales = (exact.abs().amax(dim=1, keepdim=True) / LARGEST).clamp(min=1e-12)
        result[name] = (exact / scales).round().clamp(-LARGEST, LARGEST).char()
        result[f"{name}_scale"] = scales
    return result


def quantization_config() -> dict[str, object]:
    """What compressed-tensors calls W8A8 with dynamic activations."""
    integers = {"num_bits": 8, "type": "int", "symmetric": True}
    scheme = {
        "targets": ["Linear"],
        "weights": {**integers, "strategy": "channel", "dynamic": False},
        "input_activations": {**integers, "strategy": "token", "dynamic": True},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
        "ignore": ["lm_head"],
    }
