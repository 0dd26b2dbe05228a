"""What `enginebay doctor` has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    level: Literal["good", "note", "bad"]
    what: str
    advice: str = ""
