"""What makes a directory a model that engines can load."""

from __future__ import annotations

from pathlib import Path

import msgspec

from enginebay.errors import ModelNotFound

WEIGHT_FORMS = ("*.safetensors", "pytorch_model*.bin")


class ShardIndex(msgspec.Struct):
    weight_map: dict[str, str]
    """File of each tensor."""


def check_model_directory(directory: Path) -> None:
    """Raises ModelNotFound for a directory without config.json or weights, or with shards missing."""
    if not (directory / "config.json").is_file():
        raise ModelNotFound(f"{directory} is not a model: it has no config.json")
    if not any(next(directory.glob(form), None) for form in WEIGHT_FORMS):
        raise ModelNotFound(f"{directory} has no weights: none of {', '.join(WEIGHT_FORMS)} is there")
    missing = _missing_shards(directory)
    if missing:
        raise ModelNotFound(f"{directory} is incomplete: model.safetensors.index.json names {', '.join(missing)}")


def _missing_shards(directory: Path) -> list[str]:
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return []
    try:
        shards = set(msgspec.json.decode(index.read_bytes(), type=ShardIndex).weight_map.values())
    except msgspec.DecodeError as error:
        raise ModelNotFound(f"{index} is not a readable list of shards: {error}") from error
    return sorted(shard for shard in shards if not (directory / shard).is_file())
