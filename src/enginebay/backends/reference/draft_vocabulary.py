"""Whether a draft model means the same tokens by the same ids: their number alone does not tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from enginebay.errors import ModelError


def check_draft_vocabulary(model_dir: Path, draft_dir: Path) -> None:
    """Blocking. Raises ModelError; says nothing where one of the two has no tokenizer.json to compare."""
    known, drafted = _vocabulary(model_dir), _vocabulary(draft_dir)
    if known is not None and drafted is not None and known != drafted:
        raise ModelError(
            f"speculative_draft_model {draft_dir.name}: its tokenizer.json gives other ids to tokens than that of the "
            "model; a draft model must have the same vocabulary"
        )


def _vocabulary(directory: Path) -> Any:
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read: {error!r}; fetch the model again") from error
