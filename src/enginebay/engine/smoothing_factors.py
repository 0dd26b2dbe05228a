"""By what each channel of a model's activations is divided before they are int8, see `smoothing`: seen while the model
reads a short text."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from enginebay.engine.attention import AttentionInput, PrefillChunk
from enginebay.engine.held_weights import Part
from enginebay.engine.layer_cache import LayerCache, PlainLayerCache
from enginebay.engine.layers import Affine, GatedMlp, Linear, PlainEmbedding, PlainLayers, RmsNorm
from enginebay.engine.model import CausalLM
from enginebay.engine.model_config import ModelConfig
from enginebay.engine.step_input import StepInput
from enginebay.engine.weights import Checkpoint
from enginebay.errors import UnsupportedModel

MOST_TOKENS = 512
TEXT = Path(__file__).with_name("smoothing_text.txt")
SMALLEST = 1e-6
"""A channel or weight below this is taken for one of that size."""


def find_factors(
    model_dir: Path, config: ModelConfig, *, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """By what each tensor's channels are divided. Loads the model in its dtype, and lets it go again.

    It is computed in float32: sums in 16 bits depend on the number of threads, and two engines with the same settings
    would have other integers.
    """
    with torch.inference_mode(), Checkpoint(model_dir, dtype=dtype, device=device) as weights:
        model = CausalLM(config, weights, layers=WideLayers(), dtype=torch.float32, device=device)
    token_ids = _token_ids(model_dir, config)
    observed = _observe(model)
    with torch.inference_mode():
        hidden = model.forward(_step(token_ids, config, device=device), _caches(config, token_ids, device))
        observed["head"].note(model.norm.forward(hidden))  # its logits are of no use to anyone
    return {name: seen.factors() for name, seen in observed.items()}


# ---------------------------------------------------------------- what is seen


class WideLayers(PlainLayers):
    """Computes in float32 whatever the dtype of the weights, of which one matrix at a time is widened."""

    def embedding(self, weight: Tensor) -> PlainEmbedding:
        return WideEmbedding(weight)

    def rms_norm(self, weight: Tensor, eps: float) -> RmsNorm:
        return RmsNorm(weight.float(), eps)

    def linear(self, affine: Affine, *, part: Part = "linear") -> Linear:
        return WideLinear(affine)


class WideEmbedding(PlainEmbedding):
    def forward(self, token_ids: Tensor) -> Tensor:
        return super().forward(token_ids).float()


class WideLinear(Linear):
    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight.float(), None if self.bias is None else self.bias.float())


class Observed:
    """A layer that remembers the largest value of each of its inputs."""

    def __init__(self, layer: Linear) -> None:
        self._layer = layer
        self._largest = layer.weight.new_zeros(layer.weight.shape[1], dtype=torch.float32)

    def note(self, hidden: Tensor) -> None:
        self._largest = torch.maximum(self._largest, hidden.abs().amax(dim=0).float())

    def forward(self, hidden: Tensor) -> Tensor:
        self.note(hidden)
        return self._layer.forward(hidden)

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.forward(hidden) + residual

    def factors(self) -> Tensor:
        """Whose geometric mean is about one, so that no tensor leaves the range of its dtype."""
        weights = self._layer.weight.abs().amax(dim=0).float()
        balanced = (self._largest.clamp(min=SMALLEST) / weights.clamp(min=SMALLEST)).log2() / 2
        return (balanced - balanced.mean()).round().exp2()


def _observe(model: CausalLM) -> dict[str, Observed]:
    found: dict[str, Observed] = {}
    for index, layer in enumerate(model.layers):
        mlp = layer.mlp
        assert isinstance(mlp, GatedMlp)
        layer.attention.qkv = found[f"{index}.qkv"] = _observed(layer.attention.qkv)
        mlp.gate_and_up = found[f"{index}.gate_up"] = _observed(mlp.gate_and_up)
        mlp.down = found[f"{index}.down"] = _observed(mlp.down)
    found["head"] = _observed(model.head)
    return found


def _observed(layer: object) -> Observed:
    assert isinstance(layer, Linear)
    return Observed(layer)


# ---------------------------------------------------------------- one step of one prompt


def _token_ids(model_dir: Path, config: ModelConfig) -> list[int]:
    """Of the text; of nothing but chance where the directory has no tokenizer, or one of another vocabulary."""
    num_tokens = min(MOST_TOKENS, config.max_model_len)
    path = model_dir / "tokenizer.json"
    encoded = _encoded(path) if path.is_file() else []
    if known := [token_id for token_id in encoded if token_id < config.vocab_size]:
        return known[:num_tokens]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, config.vocab_size, (num_tokens,), generator=generator).tolist()


def _encoded(path: Path) -> list[int]:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UnsupportedModel(f"{path} cannot be read: {error}") from error
    tokenizer.no_truncation()  # a tokenizer.json may carry both of a training run
    tokenizer.no_padding()
    return tokenizer.encode(TEXT.read_text(encoding="utf-8")).ids


def _step(token_ids: list[int], config: ModelConfig, *, device: torch.device) -> StepInput:
    """Each layer sees the whole text: windows make no difference to what is looked for."""
    num_rows = len(token_ids)
    positions = torch.arange(num_rows, device=device)
    chunks = {window: [PrefillChunk(slice(0, num_rows), None, None)] for window in config.sliding_windows}
    return StepInput(
        token_ids=torch.tensor(token_ids, device=device),
        positions=positions,
        context_lens=torch.full_like(positions, num_rows),
        attention=AttentionInput(positions, {window: [] for window in chunks}, chunks),
        sampled_rows=positions,
        prompt_rows={},
    )


def _caches(config: ModelConfig, token_ids: list[int], device: torch.device) -> list[LayerCache]:
    """One block of the text's length, for all layers the same: nobody reads it."""
    shape = (1, len(token_ids), config.num_kv_heads, config.head_dim)
    cache = PlainLayerCache(*(torch.empty(shape, device=device) for _ in range(2)))
    return [cache] * config.num_layers
