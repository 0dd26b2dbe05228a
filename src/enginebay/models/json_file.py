"""JSON files of a model directory, as people read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def write_json(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
