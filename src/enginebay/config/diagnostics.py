"""What pydantic found wrong, in plain words with file, YAML path and line."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from enginebay.config.known_keys import known_keys, nearest, suggest_key
from enginebay.config.secret import Secret, is_secret_key
from enginebay.config.source import Source, YamlPath, dotted
from enginebay.config.yaml_scalars import plain_scalar
from enginebay.errors import ConfigError, ConfigErrors

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_sub_type": "text",
    "dict_type": "a map of keys",
    "mapping_type": "a map of keys",
    "model_type": "a map of keys",
    "model_attributes_type": "a map of keys",
    "list_type": "a list",
    "tuple_type": "a list",
    "none_required": "nothing (null)",
    "path_type": "the path of a file",
}
_BOUNDS = {
    "greater_than_equal": "a number of at least {ge}",
    "greater_than": "a number greater than {gt}",
    "less_than_equal": "a number of at most {le}",
    "less_than": "a number less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "literal_error": "{expected}",
    "enum": "{expected}",
}
_SPOKEN_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_LONGEST_FOUND = 60


def describe(
    error: ValidationError,
    *,
    model: type[BaseModel],
    values: object,
    source: Source,
    path: YamlPath = (),
    failed: Collection[YamlPath] = (),
) -> list[ConfigError]:
    """One ConfigError for each place that is wrong.

    values: what was validated against `model`; it stands at `path` of the file. failed: places to say nothing of.
    """
    places: dict[YamlPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        if _counts_wrong_items(details):
            continue
        places.setdefault(_yaml_path(details, values), []).append(details)
    described = _Described(model, source, path)
    return [described.problem(place, details) for place, details in places.items() if (*path, *place) not in failed]


def as_one_error(problems: Sequence[ConfigError]) -> ConfigError:
    """A single problem as it is, several as ConfigErrors in the order of the file."""
    if len(problems) == 1:
        return problems[0]
    return ConfigErrors(sorted(problems, key=lambda problem: problem.line or math.inf))


class _Described:
    def __init__(self, model: type[BaseModel], source: Source, prefix: YamlPath) -> None:
        self._model, self._source, self._prefix = model, source, prefix

    def problem(self, place: YamlPath, alternatives: list[ErrorDetails]) -> ConfigError:
        """`alternatives` has more than one item where the value fits none of several types."""
        details = alternatives[0]
        if details["type"] == "extra_forbidden":
            return self._unknown_key(place)
        if details["type"] == "missing":
            return self._error(place, "this key is missing", expected=self._description(place))
        if details["type"] in ("value_error", "assertion_error"):
            return self._error(place, self._own_message(place, details))
        if details["type"] in ("union_tag_invalid", "union_tag_not_found"):
            return self._unknown_kind(place, details)
        expected = " or ".join(dict.fromkeys(_expected(one) for one in alternatives))
        return self._error(
            place,
            f"found {self._found(place, details['input'])}",
            expected=expected + self._hint(place, details),
            suggestion=None if self._is_secret(place) else _nearest_choice(details),
        )

    def _unknown_key(self, place: YamlPath) -> ConfigError:
        parent, key = place[:-1], str(place[-1])
        suggestion = suggest_key(key, model=self._model, path=parent)
        known = known_keys(self._model, parent)
        expected = None if suggestion or not known else f"one of {', '.join(known)}"
        return self._error(place, "unknown key", expected=expected, suggestion=suggestion)

    def _unknown_kind(self, place: YamlPath, details: ErrorDetails) -> ConfigError:
        context = details.get("ctx", {})
        if details["type"] == "union_tag_not_found":
            return self._error((*place, "kind"), "this key is missing", expected="the name of a kind")
        kinds = re.findall(r"'([^']*)'", str(context["expected_tags"]))
        told = str(context["tag"])
        return self._error(
            place,
            f"there is no kind {told!r}",
            expected=f"one of {', '.join(kinds)}",
            suggestion=nearest(told.lower(), kinds),
        )

    def _own_message(self, place: YamlPath, details: ErrorDetails) -> str:
        # written by a validator, perhaps a plugin's, which may quote the value
        if self._is_secret(place) and str(details["input"]) in details["msg"]:
            return "is not valid"
        return self._source.redact(details["msg"].split(", ", 1)[-1])

    def _found(self, place: YamlPath, value: object) -> str:
        whole = (*self._prefix, *place)
        if whole in self._source.variables:
            return f"the text of {self._source.variables[whole]}, which is not shown"
        if isinstance(value, Secret) or self._is_secret(place):
            return "a value that is not shown"
        return _words(value)

    def _hint(self, place: YamlPath, details: ErrorDetails) -> str:
        type_, value = details["type"], details["input"]
        if type_ in ("list_type", "tuple_type") and not isinstance(value, str | Mapping | None):
            return f", such as [{value}]"
        if not isinstance(value, str) or type_ not in ("int_type", "float_type", "bool_type"):
            return ""
        if (*self._prefix, *place) in self._source.variables:
            return "; what comes from the environment is always text"
        if type_ == "bool_type" and value.lower() in _SPOKEN_BOOLEANS:
            return f": write {_SPOKEN_BOOLEANS[value.lower()]}"
        return ", without quotes" if not isinstance(plain_scalar(value), str) else ""

    def _description(self, place: YamlPath) -> str | None:
        if len(place) != 1 or place[0] not in self._model.model_fields:
            return None
        return self._model.model_fields[str(place[0])].description

    def _is_secret(self, place: YamlPath) -> bool:
        return self._source.is_secret((*self._prefix, *place)) or any(is_secret_key(str(part)) for part in place)

    def _error(
        self, place: YamlPath, problem: str, *, expected: str | None = None, suggestion: str | None = None
    ) -> ConfigError:
        whole = (*self._prefix, *place)
        return ConfigError(
            problem,
            file=self._source.file,
            path=dotted(whole) or None,
            line=self._source.line(whole),
            expected=expected,
            suggestion=suggestion,
        )


def _yaml_path(details: ErrorDetails, values: object) -> YamlPath:
    """pydantic's location without the names of union members, which the file does not have."""
    path: list[str | int] = []
    at = values
    for index, part in enumerate(details["loc"]):
        if isinstance(at, Mapping) and part in at:
            at = cast("Mapping[object, object]", at)[part]
        elif isinstance(at, list | tuple) and isinstance(part, int) and part < len(cast("list[object]", at)):
            at = cast("list[object]", at)[part]
        elif not (details["type"] == "missing" and index == len(details["loc"]) - 1):
            continue
        path.append(part)
    return tuple(path)


def _counts_wrong_items(details: ErrorDetails) -> bool:
    """pydantic counts the sound items alone: a list that is long enough, but has wrong ones, it calls too short."""
    items = details["input"]
    if details["type"] != "too_short" or not isinstance(items, list | tuple):
        return False
    return len(cast("Sequence[object]", items)) >= details.get("ctx", {})["min_length"]


def _expected(details: ErrorDetails) -> str:
    type_, context = details["type"], details.get("ctx", {})
    if type_ in _TYPES:
        return _TYPES[type_]
    if type_ in _BOUNDS:
        return _BOUNDS[type_].format(**context)
    return details["msg"].removeprefix("Input should be ")


def _nearest_choice(details: ErrorDetails) -> str | None:
    value = details["input"]
    if details["type"] not in ("literal_error", "enum") or not isinstance(value, str):
        return None
    return nearest(value.lower(), re.findall(r"'([^']*)'", str(details.get("ctx", {}).get("expected", ""))))


def _words(value: object) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= _LONGEST_FOUND else f"the text {value[:_LONGEST_FOUND]!r}..."
    return "a map" if isinstance(value, Mapping) else "a list"
