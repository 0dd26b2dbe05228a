"""Rotary position embeddings: the angles of every rope type, and how they are applied."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from enginebay.engine.rope_config import RopeConfig


class RotaryEmbedding:
    """Cosines and sines for a step's tokens, made once per step and shared by all layers.

    `dynamic` and `longrope` depend on the length of the context too. Here that length is a property of the token,
    max(prompt length, position + 1), so that the angles depend neither on the chunks a prompt is cut into nor on
    preemption or the rest of the batch; for one whole prompt it is what transformers computes.
    """

    def __init__(self, config: RopeConfig, head_dim: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._config, self._dtype = config, dtype
        self._exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float().to(device) / head_dim
        self._inverse_frequencies, self._scale = _inverse_frequencies(config, self._exponents, head_dim)
        self._long = _long_frequencies(config, self._exponents)
        self._ntk_power = head_dim / (head_dim - 2)

    def cos_sin(self, positions: Tensor, context_lens: Tensor) -> tuple[Tensor, Tensor]:
        """positions, context_lens: (num_tokens,) -> two of (num_tokens, 1, head_dim)."""
        angles = positions[:, None].float() * self._frequencies(context_lens)
        angles = torch.cat((angles, angles), dim=-1)[:, None, :]
        return (angles.cos() * self._scale).to(self._dtype), (angles.sin() * self._scale).to(self._dtype)

    def _frequencies(self, context_lens: Tensor) -> Tensor:
        """(head_dim / 2,), or one row for each token."""
        config = self._config
        if config.rope_type == "longrope":
            is_long = context_lens > config.original_max_position_embeddings
            return torch.where(is_long[:, None], self._long, self._inverse_frequencies)
        if config.rope_type == "dynamic":
            longest = config.max_position_embeddings
            growth = config.factor * context_lens.clamp(min=longest).double() / longest - (config.factor - 1)
            base = config.theta * growth**self._ntk_power
            return 1.0 / base.float()[:, None] ** self._exponents
        return self._inverse_frequencies


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """heads: (num_tokens, num_heads, head_dim), halves paired as in the Hugging Face layout of Llama weights."""
    first, second = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat((-second, first), dim=-1), sin)


def _inverse_frequencies(config: RopeConfig, exponents: Tensor, head_dim: int) -> tuple[Tensor, float]:
    """The frequencies of one token and the factor on cosines and sines."""
    plain = 1.0 / config.theta**exponents
    match config.rope_type:
        case "default" | "dynamic":
            return plain, 1.0
        case "linear":
            return plain / config.factor, 1.0
        case "llama3":
            return _llama3(config, plain), 1.0
        case "yarn":
            return _yarn(config, exponents, head_dim), _yarn_scale(config)
        case "longrope":
            short = torch.tensor(config.short_factor, device=exponents.device)
            return 1.0 / (short * config.theta**exponents), _longrope_scale(config)


def _long_frequencies(config: RopeConfig, exponents: Tensor) -> Tensor:
    if config.rope_type != "longrope":
        return exponents
    return 1.0 / (torch.tensor(config.long_factor, device=exponents.device) * config.theta**exponents)


def _longrope_scale(config: RopeConfig) -> float:
    """Source: LongRoPE (arXiv:2402.13753), as in transformers."""
    if config.attention_factor is not None:
        return config.attention_factor
    if config.factor <= 1.0:
        return 1.0
    return math.sqrt(1 + math.log(config.factor) / math.log(config.original_max_position_embeddings))


def _llama3(config: RopeConfig, plain: Tensor) -> Tensor:
    """Long waves are stretched by `factor`, short ones kept, those between interpolated. Source: Llama 3.1."""
    assert config.low_freq_factor is not None
    assert config.high_freq_factor is not None
    context_len = config.original_max_position_embeddings
    wave_lengths = 2 * math.pi / plain
    smooth = (context_len / wave_lengths - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * plain / config.factor + smooth * plain


def _yarn(config: RopeConfig, exponents: Tensor, head_dim: int) -> Tensor:
    """Source: YaRN (arXiv:2309.00071), "NTK by parts"."""
    waves = config.theta**exponents

    def dimension_of(num_rotations: float) -> float:
        context_len = config.original_max_position_embeddings
        return head_dim * math.log(context_len / (num_rotations * 2 * math.pi)) / (2 * math.log(config.theta))

    low, high = dimension_of(config.beta_fast), dimension_of(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # as in transformers: no division by zero
    ramp = ((torch.arange(head_dim // 2, device=waves.device).float() - low) / (high - low)).clamp(0, 1)
    return ramp / (config.factor * waves) + (1 - ramp) / waves


def _yarn_scale(config: RopeConfig) -> float:
    def scale(mscale: float) -> float:
        return 1.0 if config.factor <= 1 else 0.1 * mscale * math.log(config.factor) + 1.0

    if config.attention_factor is not None:
        return config.attention_factor
    if config.mscale and config.mscale_all_dim:
        return scale(config.mscale) / scale(config.mscale_all_dim)
    return scale(1.0)
