"""Activations that are easier to quantise: a few input channels are far larger than the rest, and one scale for a whole
row leaves the others few steps. Each channel is divided by a factor where it is made (the norm before, or the rows of
`up_proj`), and the weights that read it are multiplied by the same: the model computes what it did before.

Factors are powers of two, so nothing rounds. They balance the largest value of a channel, seen while the model reads a
short text, with the largest weight that reads it. Source: Xiao et al. 2022, SmoothQuant, alpha 0.5 (arXiv:2211.10438).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from enginebay.engine.attention import AttentionInput, PrefillChunk
from enginebay.engine.kv_cache import LayerCache
from enginebay.engine.layers import Embedding, GatedMlp, LayerFactory, Linear, PlainLayers, ResidualLayer
from enginebay.engine.model import CausalLM, load_model
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
    """By what each tensor's channels are divided (`Factors.of`). Loads the model in its dtype, and lets it go again."""
    model, _ = load_model(model_dir, config, PlainLayers(), dtype=dtype, device=device)
    token_ids = _token_ids(model_dir, config)
    observed = _observe(model)
    with torch.inference_mode():
        hidden = model.forward(_step(token_ids, config, device=device), _caches(config, token_ids, dtype, device))
        observed["head"].note(model.norm.forward(hidden))  # its logits are of no use to anyone
    return {name: seen.factors() for name, seen in observed.items()}


class SmoothedCheckpoint(Checkpoint):
    """The same tensors with the factors in them; those of a tied head's norm are undone behind the embedding."""

    def __init__(
        self, model_dir: Path, *, dtype: torch.dtype, device: torch.device, factors: dict[str, Tensor], is_tied: bool
    ) -> None:
        super().__init__(model_dir, dtype=dtype, device=device)
        self._factors = factors
        self._is_tied = is_tied

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = super().take(name, shape)
        made, read = made_by(name), read_by(name, is_tied=self._is_tied)
        if made in self._factors:
            factors = self._factors[made].to(tensor)
            tensor.div_(factors if tensor.dim() == 1 else factors[:, None])
        return tensor.mul_(self._factors[read].to(tensor)) if read in self._factors else tensor

    def take_copy_of(self, name: str, original: Tensor) -> None:
        super().take_copy_of(name, original / self._factors["head"].to(original))


class SmoothedEmbedding:
    def __init__(self, embedding: Embedding, factors: Tensor) -> None:
        self._embedding, self._inverse = embedding, 1 / factors

    def forward(self, token_ids: Tensor) -> Tensor:
        return self._embedding.forward(token_ids).mul_(self._inverse)

    def head(self) -> ResidualLayer:
        return self._embedding.head()


def load_smoothed(
    model_dir: Path, config: ModelConfig, layers: LayerFactory, *, dtype: torch.dtype, device: torch.device
) -> tuple[CausalLM, int]:
    """As `load_model`."""
    factors = find_factors(model_dir, config, dtype=dtype, device=device)
    is_tied = config.tie_word_embeddings
    weights = SmoothedCheckpoint(model_dir, dtype=dtype, device=device, factors=factors, is_tied=is_tied)
    with torch.inference_mode(), weights:
        model = CausalLM(config, weights, layers=layers, dtype=dtype, device=device)
        if is_tied:
            model.embedding = SmoothedEmbedding(model.embedding, factors["head"].to(dtype))
        return model, weights.num_bytes


# ---------------------------------------------------------------- which tensors

_READERS = {
    "self_attn.q_proj": "qkv", "self_attn.k_proj": "qkv", "self_attn.v_proj": "qkv",
    "mlp.gate_proj": "gate_up", "mlp.up_proj": "gate_up", "mlp.down_proj": "down",
}  # fmt: skip
_MAKERS = {
    "input_layernorm.weight": "qkv", "post_attention_layernorm.weight": "gate_up",
    "mlp.up_proj.weight": "down", "mlp.up_proj.bias": "down",
}  # fmt: skip


def made_by(name: str) -> str | None:
    """The channels that the tensor's outputs are: "3.down" for layer 3, or "head"."""
    if name == "model.norm.weight":
        return "head"
    return _of_layer(name, _MAKERS, rest_of=lambda rest: rest)


def read_by(name: str, *, is_tied: bool) -> str | None:
    """The channels that the tensor's inputs are."""
    if name == ("model.embed_tokens.weight" if is_tied else "lm_head.weight"):
        return "head"
    return _of_layer(name, _READERS, rest_of=lambda rest: rest.removesuffix(".weight"))


def _of_layer(name: str, table: dict[str, str], *, rest_of: Callable[[str], str]) -> str | None:
    if not name.startswith("model.layers."):
        return None
    index, _, rest = name.removeprefix("model.layers.").partition(".")
    group = table.get(rest_of(rest))
    return None if group is None else f"{index}.{group}"


# ---------------------------------------------------------------- what is seen


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


def _caches(config: ModelConfig, token_ids: list[int], dtype: torch.dtype, device: torch.device) -> list[LayerCache]:
    """One block of the text's length, for all layers the same: nobody reads it."""
    shape = (1, len(token_ids), config.num_kv_heads, config.head_dim)
    cache = LayerCache(*(torch.empty(shape, dtype=dtype, device=device) for _ in range(2)))
    return [cache] * config.num_layers
