"""Where every value of a config came from: file, line, and whether it may be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from enginebay.config.secret import MASK

YamlPath = tuple[str | int, ...]
_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")
_SHORTEST_SECRET = 4
"""Shorter ones are masked in their place, but not searched for in other text: they would match everywhere."""


@dataclass(frozen=True, slots=True)
class Source:
    file: str | None
    """None for values that were never in a file."""
    lines: Mapping[YamlPath, int] = field(default_factory=dict[YamlPath, int])
    """Line of the key, or of the list item."""
    secret_paths: frozenset[YamlPath] = frozenset()
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    variables: Mapping[YamlPath, str] = field(default_factory=dict[YamlPath, str])
    """The environment variables that a value was made from."""

    def line(self, path: YamlPath) -> int | None:
        """Line of the value, or of the nearest one around it that the file has."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def is_secret(self, path: YamlPath) -> bool:
        return any(path[:length] in self.secret_paths for length in range(len(path) + 1))

    def redact(self, text: str) -> str:
        for secret in sorted(self.secrets, key=len, reverse=True):
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, MASK)
        return text


def dotted(path: YamlPath) -> str:
    """`("bench", "users", 1)` as `bench.users[1]`; keys with other characters are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _PLAIN_KEY.fullmatch(part) else f'"{part}"')
    return text
