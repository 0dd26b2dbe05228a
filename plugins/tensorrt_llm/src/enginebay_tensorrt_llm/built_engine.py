"""An engine that exists has its numbers built in: what is asked is compared with its `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginebay.backend import SettingOutcome
from enginebay.errors import ConfigError
from enginebay_tensorrt_llm.engine_settings import EngineBuild

# Portable name -> the field of `EngineBuild`, and where the engine's config has it.
_BUILT: Mapping[str, tuple[str, str]] = {
    "dtype": ("dtype", "pretrained_config.dtype"),
    "quantization": ("quant_algo", "pretrained_config.quantization.quant_algo"),
    "kv_cache_dtype": ("kv_cache_quant_algo", "pretrained_config.quantization.kv_cache_quant_algo"),
    "tensor_parallel_size": ("tensor_parallel_size", "pretrained_config.mapping.tp_size"),
    "pipeline_parallel_size": ("pipeline_parallel_size", "pretrained_config.mapping.pp_size"),
    "max_num_seqs": ("max_batch_size", "build_config.max_batch_size"),
    "max_model_len": ("max_seq_len", "build_config.max_seq_len"),
    "max_num_batched_tokens": ("max_num_tokens", "build_config.max_num_tokens"),
}


def compared(
    outcomes: tuple[SettingOutcome, ...], build: EngineBuild, *, directory: str | None
) -> tuple[SettingOutcome, ...]:
    """The same, with what the engine was not built with unsupported; as they are where there is no engine yet."""
    file = Path(directory or "").expanduser() / "config.json"
    if directory is None or not file.is_file():
        return outcomes
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is not readable: {error}", path="options.engine_directory") from error
    return tuple(_compared(outcome, build, config, file) for outcome in outcomes)


def _compared(outcome: SettingOutcome, build: EngineBuild, config: object, file: Path) -> SettingOutcome:
    if outcome.setting not in _BUILT or outcome.value == "auto":
        return outcome
    field, path = _BUILT[outcome.setting]
    built, asked = _at(config, path), getattr(build, field)
    if built in (None, asked):
        return outcome
    why = f"the engine was built with {built}, not {asked} ({path} in {file}): build it again, or ask for {built}"
    return SettingOutcome(outcome.setting, outcome.value, "unsupported", why=why)


def _at(config: Any, path: str) -> object:
    for part in path.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config
