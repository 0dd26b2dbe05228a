"""Which keys a model knows at a YAML path, for "did you mean"."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from enginebay.config.source import YamlPath, dotted


def known_keys(model: type[BaseModel], path: YamlPath) -> dict[str, Any]:
    """The keys that may stand in the map at `path`, with their types; empty where any key may."""
    places: list[Any] = [model]
    for part in path:
        places = [inner for place in places for inner in _inside(place, part)]
    return {key: type_ for place in places for key, type_ in _fields(place).items()}


def suggest_key(key: str, *, model: type[BaseModel], path: YamlPath) -> str | None:
    """The known key that was probably meant by `key` in the map at `path`, or the place where it belongs."""
    known = known_keys(model, path)
    plain = key.strip().lower().replace("-", "_")
    if plain in known:
        return plain
    homes = [name for name, type_ in known.items() if any(plain in _fields(place) for place in _models(type_))]
    if not homes and path:
        outer = known_keys(model, ())
        if plain in outer:
            return f"{plain} at the top level"
    if homes:
        return " or ".join(dotted((home, plain)) for home in homes)
    return nearest(plain, known)


def nearest(word: str, known: Iterator[str] | Sequence[str] | Mapping[str, Any]) -> str | None:
    close = get_close_matches(word, list(known), n=1)
    return close[0] if close else None


def _inside(place: Any, part: str | int) -> Iterator[Any]:
    """The types of what `part` leads to."""
    fields = _fields(place)
    if part in fields:
        yield from _alternatives(fields[str(part)])
    elif get_origin(place) in (dict, Mapping):
        yield from _alternatives(get_args(place)[1])
    elif isinstance(part, int) and get_origin(place) in (list, tuple, Sequence):
        yield from _alternatives(get_args(place)[0])


def _alternatives(type_: Any) -> Iterator[Any]:
    """The members of a union, without Annotated around them."""
    origin = get_origin(type_)
    if origin is Annotated:
        yield from _alternatives(get_args(type_)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(type_):
            yield from _alternatives(member)
    else:
        yield type_


def _models(type_: Any) -> Iterator[type[BaseModel]]:
    return (place for place in _alternatives(type_) if isinstance(place, type) and issubclass(place, BaseModel))


def _fields(place: Any) -> dict[str, Any]:
    if not (isinstance(place, type) and issubclass(place, BaseModel)):
        return {}
    return {field.alias or name: field.annotation for name, field in place.model_fields.items()}
