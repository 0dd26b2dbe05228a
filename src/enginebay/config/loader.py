"""A config file to a frozen `Config`. Every problem of the file is reported at once, each with path and line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from enginebay.config.diagnostics import as_one_error, describe
from enginebay.config.environment import MalformedReference, MissingVariable, expand
from enginebay.config.models import Config
from enginebay.config.secret import Secret, has_password, is_secret_key, secret_arguments
from enginebay.config.source import Source, YamlPath, dotted
from enginebay.config.yaml_nodes import MappingNode, Node, ScalarNode, read_nodes
from enginebay.config.yaml_scalars import Scalar
from enginebay.errors import ConfigError

MAX_VALUES = 100_000
"""Aliases of aliases multiply; a file that unfolds to more values is refused."""


def load_config(path: str | os.PathLike[str], *, environment: Mapping[str, str] | None = None) -> Config:
    """Read, expand and validate. `environment` is what `${NAME}` refers to, else this process's.

    Raises ConfigError; where there are several problems, one ConfigErrors with all of them in file order.
    """
    file = os.fspath(path)
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=file) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8: {error.reason} at byte {error.start}", file=file) from error
    return parse_config(text, file=file, environment=environment)


def parse_config(text: str, *, file: str = "<text>", environment: Mapping[str, str] | None = None) -> Config:
    """The same for text that is already read."""
    problems: list[ConfigError] = []
    root = read_nodes(text, file=file, problems=problems)
    if not isinstance(root, MappingNode):
        found = "nothing" if root is None else "no map of keys"
        raise ConfigError(f"the file has {found}", file=file, expected="a config that begins with `version: 1`")
    unfolding = _Unfolding(file, os.environ if environment is None else environment, problems)
    values = unfolding.unfold(root, ())
    source = unfolding.source()
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += describe(error, model=Config, values=values, source=source, failed=unfolding.failed)
        raise as_one_error(problems) from error
    if problems:
        raise as_one_error(problems)
    config._source = source  # pyright: ignore[reportPrivateUsage] - the only writer
    return config


@dataclass(slots=True)
class _Unfolding:
    """Turns nodes into plain values and notes on the way where each came from."""

    file: str
    environment: Mapping[str, str]
    problems: list[ConfigError]
    lines: dict[YamlPath, int] = field(default_factory=dict[YamlPath, int])
    secrets: dict[YamlPath, str] = field(default_factory=dict[YamlPath, str])
    variables: dict[YamlPath, str] = field(default_factory=dict[YamlPath, str])
    failed: set[YamlPath] = field(default_factory=set[YamlPath])
    """Paths that already have a problem: what the models say of them as well is no news."""

    def unfold(self, node: Node, path: YamlPath) -> object:
        self.lines.setdefault(path, node.line)
        if len(self.lines) > MAX_VALUES:
            raise ConfigError(f"unfolds to more than {MAX_VALUES} values", file=self.file, line=node.line)
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, MappingNode):
            self.lines.update({(*path, key): entry.line for key, entry in node.entries.items()})
            return {key: self.unfold(entry.node, (*path, key)) for key, entry in node.entries.items()}
        return self._without_secret_arguments(
            [self.unfold(item, (*path, i)) for i, item in enumerate(node.items)], path
        )

    def _without_secret_arguments(self, words: list[object], path: YamlPath) -> list[object]:
        for index, secret in secret_arguments(words):
            self.secrets[*path, index] = secret
            if isinstance(words[index], str):
                words[index] = Secret(words[index])
        return words

    def _scalar(self, node: ScalarNode, path: YamlPath) -> Scalar:
        if isinstance(node.value, str):
            return self._text(node, path)
        if not isinstance(node.value, bool | None) and self._is_under_secret_key(path):
            self.secrets[path] = str(node.value)
        return node.value

    def _text(self, node: ScalarNode, path: YamlPath) -> str:
        try:
            text, names = expand(str(node.value), self.environment)
        except MissingVariable as error:
            hint = f"set it, or give a default: ${{{error.name}:-...}}"
            return self._failed(path, node, f"{error}; {hint}")
        except MalformedReference as error:
            return self._failed(path, node, f"{error}; write ${{NAME}}, or $${{ for the two characters themselves")
        if names:
            self.variables[path] = " and ".join(f"${{{name}}}" for name in names)
        if not (names or has_password(text) or self._is_under_secret_key(path)):
            return text
        self.secrets[path] = text
        return Secret(text)

    def _is_under_secret_key(self, path: YamlPath) -> bool:
        keys = [part for part in path if isinstance(part, str)]
        return bool(keys) and is_secret_key(keys[-1])

    def _failed(self, path: YamlPath, node: ScalarNode, problem: str) -> str:
        self.failed.add(path)
        self.problems.append(ConfigError(problem, file=self.file, path=dotted(path), line=node.line))
        return ""

    def source(self) -> Source:
        return Source(
            file=self.file,
            lines=self.lines,
            secret_paths=frozenset(self.secrets),
            secrets=frozenset(self.secrets.values()),
            variables=self.variables,
        )
