"""`${NAME}` and `${NAME:-default}` in the strings of a config."""

from __future__ import annotations

import re
from collections.abc import Mapping

# `$${` is a literal `${`; a `$` before anything else is itself
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<inside>[^}]*)(?P<end>\}?)")
_INSIDE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


class MissingVariable(Exception):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"the environment variable {name} is not set")


class MalformedReference(Exception):
    pass


def expand(text: str, environment: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Return the text with its references replaced, and the names of the variables whose values are in it.

    As in a shell, a default stands in for a variable that is unset or empty. The result stays text.
    Raises MissingVariable and MalformedReference.
    """
    names: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        if match.group() == "$${":
            return "${"
        reference = _INSIDE.fullmatch(match["inside"])
        if reference is None or not match["end"]:
            raise MalformedReference(f"{match.group()!r} is no reference to a variable")
        name, default = reference["name"], reference["default"]
        if default is not None and not environment.get(name):
            return default
        if name not in environment:
            raise MissingVariable(name)
        names.append(name)
        return environment[name]

    return _REFERENCE.sub(replacement, text), tuple(names)
