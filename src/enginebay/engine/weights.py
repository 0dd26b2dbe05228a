"""The tensors of a Hugging Face directory: each one is used exactly once, or the directory is refused."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from enginebay.errors import ModelError, ModelNotFound, UnsupportedModel

if TYPE_CHECKING:
    from typing import Self

FLOATING = (torch.float32, torch.bfloat16, torch.float16)
# Old checkpoints carry the angles of rotary embeddings; they are computed from the config, as in transformers.
DERIVED_SUFFIXES = (".rotary_emb.inv_freq",)


class Checkpoint:
    """Hands out tensors by name, in one dtype, on one device; a context manager that owns the open files.

    Leaving it without an error checks that nothing was left over.
    """

    def __init__(self, model_dir: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        self._model_dir, self._dtype, self._device = model_dir, dtype, device
        self._open_files = ExitStack()
        self._readers: dict[str, Any] = {}
        self._unused: set[str] = set()
        self.num_bytes = 0
        """Of the tensors handed out."""

    def __enter__(self) -> Self:
        try:
            for path in safetensors_files(self._model_dir):
                reader = self._open_files.enter_context(safe_open(path, framework="pt"))
                for name in reader.keys():  # noqa: SIM118 (not a dict)
                    if name in self._readers:
                        raise ModelError(f"{self._model_dir}: tensor {name!r} stands in two files")
                    self._readers[name] = reader
        except (SafetensorError, OSError) as error:
            self._open_files.close()
            raise ModelError(f"{self._model_dir}: the weights cannot be read: {error}; fetch them again") from error
        self._unused = {name for name in self._readers if not name.endswith(DERIVED_SUFFIXES)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open_files.close()
        if error is None and self._unused:
            names = ", ".join(sorted(self._unused)[:8])
            raise UnsupportedModel(
                f"{self._model_dir}: {len(self._unused)} tensors have no place in this architecture: {names}"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name; raises ModelError if it is missing or of another shape."""
        stored = self._stored(name, shape).to(device=self._device, dtype=self._dtype)
        # A tensor of the file's own dtype would keep the whole file mapped.
        tensor = stored.clone(memory_format=torch.contiguous_format)
        self.num_bytes += tensor.nbytes
        return tensor

    def take_copy_of(self, name: str, original: Tensor) -> None:
        """A tensor that the config says equals another one: accepted if it does."""
        if not torch.equal(self._stored(name, tuple(original.shape)).to(original), original):
            raise UnsupportedModel(f"{self._model_dir}: {name!r} differs from the tensor that config.json ties it to")

    def _stored(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self._readers:
            raise ModelError(f"{self._model_dir}: tensor {name!r} is missing from the weights")
        assert name in self._unused, f"{name} taken twice"
        self._unused.discard(name)
        tensor: Tensor = self._readers[name].get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"{self._model_dir}: tensor {name!r} has shape {tuple(tensor.shape)}, config.json implies {shape}"
            )
        if tensor.dtype not in FLOATING:
            raise UnsupportedModel(f"{self._model_dir}: tensor {name!r} is {tensor.dtype}: quantised weights")
        return tensor


def safetensors_files(model_dir: Path) -> list[Path]:
    """The shards that the index names, or the one file; raises ModelNotFound where there are neither."""
    single, index = model_dir / "model.safetensors", model_dir / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index} is not an index of safetensors files: {error!r}") from error
        if missing := [name for name in names if not (model_dir / name).is_file()]:
            raise ModelNotFound(f"{model_dir} lacks {', '.join(missing)}, which {index.name} names; fetch them again")
        return [model_dir / name for name in names]
    if single.is_file():
        return [single]
    raise ModelNotFound(f"{model_dir} has neither {single.name} nor {index.name}")
