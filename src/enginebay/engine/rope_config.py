"""What a `config.json` says about rotary position embeddings, in either spelling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from enginebay.errors import UnsupportedModel

RopeType = Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3"]

KNOWN_KEYS = (
    "rope_type",
    "type",  # the old spelling of rope_type
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "low_freq_factor",
    "high_freq_factor",
    "short_factor",
    "long_factor",
    "truncate",
    "finetuned",  # tells where the weights came from, changes nothing
)

REQUIRED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Names and meanings as in the configs of transformers; None where the rope type has no such value."""

    rope_type: RopeType = "default"
    theta: float = 10_000.0
    max_position_embeddings: int
    original_max_position_embeddings: int
    factor: float = 1.0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    @property
    def longest_context(self) -> int:
        """How far the scaling reaches; `max_position_embeddings` may already include it."""
        if self.rope_type in ("linear", "dynamic"):
            return int(self.max_position_embeddings * self.factor)
        if self.rope_type == "yarn":
            return max(self.max_position_embeddings, int(self.original_max_position_embeddings * self.factor))
        return self.max_position_embeddings

    def length_class(self, num_prompt_tokens: int) -> int:
        """All that the angles of a prompt's tokens take from its length: equal for all prompts of most rope types."""
        if self.rope_type == "longrope":
            return int(num_prompt_tokens > self.original_max_position_embeddings)
        if self.rope_type == "dynamic":
            return max(num_prompt_tokens, self.max_position_embeddings)
        return 0


def read_rope_config(config: Mapping[str, object], *, max_position_embeddings: int, head_dim: int) -> RopeConfig:
    """Read `rope_parameters` (transformers 5) or `rope_scaling` with `rope_theta` beside it (before)."""
    parameters = _parameters(config)
    rope_type = _rope_type(parameters)
    for key in REQUIRED[rope_type]:
        if parameters.get(key) is None:
            raise UnsupportedModel(f"rope type {rope_type!r} needs {key!r}, which config.json does not give")
    original = _original_max_position_embeddings(config, parameters) or max_position_embeddings
    return RopeConfig(
        rope_type=rope_type,
        theta=_number(parameters, "rope_theta") or _number(config, "rope_theta") or 10_000.0,
        max_position_embeddings=max_position_embeddings,
        original_max_position_embeddings=original,
        factor=_number(parameters, "factor") or max_position_embeddings / original,
        attention_factor=_number(parameters, "attention_factor"),
        beta_fast=_number(parameters, "beta_fast") or 32.0,
        beta_slow=_number(parameters, "beta_slow") or 1.0,
        mscale=_number(parameters, "mscale"),
        mscale_all_dim=_number(parameters, "mscale_all_dim"),
        truncate=parameters.get("truncate") is not False,
        low_freq_factor=_number(parameters, "low_freq_factor"),
        high_freq_factor=_number(parameters, "high_freq_factor"),
        short_factor=_factors(parameters, "short_factor", head_dim),
        long_factor=_factors(parameters, "long_factor", head_dim),
    )


def _parameters(config: Mapping[str, object]) -> Mapping[str, object]:
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise UnsupportedModel(f"rope parameters must be an object in config.json, not {parameters!r}")
    if unknown := sorted(str(key) for key in parameters if key not in KNOWN_KEYS):
        raise UnsupportedModel(f"unknown rope parameters in config.json: {', '.join(unknown)}")
    partial = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise UnsupportedModel(f"partial_rotary_factor {partial!r} is not supported: only whole heads are rotated")
    return parameters


def _rope_type(parameters: Mapping[str, object]) -> RopeType:
    rope_type = parameters.get("rope_type") or parameters.get("type") or "default"
    for known in get_args(RopeType):
        if rope_type == known:
            return known
    raise UnsupportedModel(f"unknown rope type {rope_type!r} (known: {', '.join(get_args(RopeType))})")


def _original_max_position_embeddings(config: Mapping[str, object], parameters: Mapping[str, object]) -> int | None:
    """A value beside the rope parameters wins, as in transformers (Phi-3 has it there)."""
    key = "original_max_position_embeddings"
    value = _number(config, key) or _number(parameters, key)
    return None if value is None else int(value)


def _number(values: Mapping[str, object], key: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnsupportedModel(f"rope parameter {key!r} must be a number in config.json, not {value!r}")
    return float(value)


def _factors(parameters: Mapping[str, object], key: str, head_dim: int) -> tuple[float, ...]:
    values = parameters.get(key)
    if values is None:
        return ()
    if not isinstance(values, list) or len(values) != head_dim // 2:
        raise UnsupportedModel(f"rope parameter {key!r} must be a list of {head_dim // 2} numbers (half of head_dim)")
    return tuple(float(value) for value in values)
