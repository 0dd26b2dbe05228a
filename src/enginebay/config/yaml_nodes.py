"""YAML text to a tree of nodes that know their lines. Duplicate keys are refused, anchors and merges are resolved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)

from enginebay.config.yaml_scalars import Scalar, plain_scalar, tagged_scalar
from enginebay.errors import ConfigError

MAX_DEPTH = 64
_MERGE = "<<"
_COLLECTION_TAGS = (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, slots=True)
class ScalarNode:
    value: Scalar
    line: int


@dataclass(frozen=True, slots=True)
class SequenceNode:
    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True, slots=True)
class MappingNode:
    entries: dict[str, Entry]
    line: int


@dataclass(frozen=True, slots=True)
class Entry:
    node: Node
    line: int
    """Of the key, which for a merged key is the line where it was anchored."""


Node = ScalarNode | SequenceNode | MappingNode


def read_nodes(text: str, *, file: str, problems: list[ConfigError]) -> Node | None:
    """Return the root of the only document; None for an empty one.

    Duplicate keys go to `problems`, since reading can go on. What cannot be read at all raises ConfigError.
    """
    try:
        parser: Any = YAML(typ="safe", pure=True)
        return _Reader(parser.parse(text), file, problems).document()
    except MarkedYAMLError as error:
        raise _invalid(error, file) from error
    except YAMLError as error:
        raise ConfigError(f"not valid YAML: {str(error).splitlines()[0]}", file=file) from error


class _Reader:
    """Recursive descent over the parser's events. Lines count from 1."""

    def __init__(self, events: Iterator[Any], file: str, problems: list[ConfigError]) -> None:
        self._events = events
        self._file = file
        self._problems = problems
        self._anchors: dict[str, Node] = {}
        self._depth = 0

    def document(self) -> Node | None:
        root = None
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    raise self._error("a second document begins here, a config is a single one", event)
                root = self._node(next(self._events))
            elif isinstance(event, StreamEndEvent):
                break
        return root

    def _node(self, event: Any) -> Node:
        if isinstance(event, AliasEvent):
            anchor: Any = event.anchor  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            if anchor not in self._anchors:
                raise self._error(f"the alias *{anchor} has no anchor before it", event)
            return self._anchors[anchor]
        is_scalar = isinstance(event, ScalarEvent)
        node = self._scalar(event) if is_scalar else self._collection(event)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any) -> ScalarNode:
        text, line = str(event.value), _line(event)
        try:
            if event.tag is not None:
                return ScalarNode(tagged_scalar(text, str(event.tag)), line)
            return ScalarNode(plain_scalar(text) if event.style is None else text, line)
        except ValueError as error:  # also of an integer with more digits than Python reads
            raise self._error(str(error), event) from error

    def _collection(self, event: Any) -> Node:
        if event.tag not in _COLLECTION_TAGS:
            raise self._error(f"the tag {str(event.tag)!r} has no meaning here", event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"nested more than {MAX_DEPTH} levels deep", event)
        node = self._mapping(event) if isinstance(event, MappingStartEvent) else self._sequence(event)
        self._depth -= 1
        return node

    def _sequence(self, start: Any) -> SequenceNode:
        items: list[Node] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.append(self._node(event))
        return SequenceNode(tuple(items), _line(start))

    def _mapping(self, start: Any) -> MappingNode:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            key, value = self._key(event), self._node(next(self._events))
            if key == _MERGE and event.style is None:
                for source in self._merge_sources(value, event):
                    merged = {**source.entries, **merged}  # the first source that has a key wins
            elif key in own:
                self._problems.append(
                    self._error(f"the key {key!r} stands twice: here and in line {own[key].line}", event)
                )
            else:
                own[key] = Entry(value, _line(event))
        return MappingNode({**merged, **own}, _line(start))

    def _key(self, event: Any) -> str:
        node = self._node(event)
        if isinstance(node, ScalarNode) and isinstance(node.value, str):
            return node.value
        found = f"{node.value!r}" if isinstance(node, ScalarNode) else "a collection"
        raise self._error(f"a key is text, not {found}: put it in quotes", event)

    def _merge_sources(self, value: Node, event: Any) -> tuple[MappingNode, ...]:
        sources = value.items if isinstance(value, SequenceNode) else (value,)
        maps = tuple(source for source in sources if isinstance(source, MappingNode))
        if len(maps) != len(sources):
            raise self._error("`<<` merges a map or a list of maps, such as `<<: *anchor`", event)
        return maps

    def _error(self, problem: str, event: Any) -> ConfigError:
        return ConfigError(problem, file=self._file, line=_line(event))


def _line(event: Any) -> int:
    return event.start_mark.line + 1


def _invalid(error: Any, file: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    return ConfigError(f"not valid YAML: {error.problem or error.context}", file=file, line=line)
