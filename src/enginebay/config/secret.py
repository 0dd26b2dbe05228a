"""Text that came from the environment or sits under a key such as `api_key`: used as text, never shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, TypeVar, cast

from pydantic import AfterValidator, PlainSerializer, SerializationInfo, ValidatorFunctionWrapHandler, WrapValidator

MASK = "***"
_SECRET_KEY = re.compile(
    r"(^|[_-])(api_?key|key|token|secret|password|passwd|passphrase|pass|pwd|credentials?|authorization)$",
    re.IGNORECASE,
)
_SECRET_FLAG = re.compile(
    r"^-+((.*[_-])?(api[_-]?key|password|passwd|passphrase|pass|pwd|secret|credentials?|authorization)"
    r"|((hf|hub|auth|access|bearer)[_-])?token)(=|$)",
    re.IGNORECASE,
)
"""Narrower than a key's name: `--eos-token` has no secret behind it."""
_URL_WITH_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")


class Secret(str):
    """Equal to its text in every use but one: `repr` is masked, and with it every repr that contains it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{MASK}'"


def is_secret_key(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def is_secret_flag(argument: str) -> bool:
    """Is this a flag for which a command line is no place, with its value or before it?"""
    return _SECRET_FLAG.match(argument) is not None


def secret_arguments(words: Sequence[object]) -> Iterator[tuple[int, str]]:
    """Index and secret of the words of a command line that follow a name of a secret: `--api-key KEY`, `A_TOKEN=T`."""
    is_named = False
    for index, word in enumerate(map(str, words)):
        name, equals, value = word.partition("=")
        if is_named and not word.startswith("-"):
            yield index, word
        elif equals and is_secret_key(name.lstrip("-")):
            yield index, value
        is_named = not equals and word.startswith("-") and is_secret_key(word.lstrip("-"))


def has_password(text: str) -> bool:
    """Is this a URL with a password in it?"""
    return _URL_WITH_PASSWORD.search(text) is not None


def masked(value: object) -> object:
    """Return the value with every Secret in it replaced, for JSON that people read."""
    return _replaced(value, lambda _: MASK)


def revealed(value: object) -> object:
    """Return the value as plain dicts, lists and text, for those who must use the secrets."""
    return _replaced(value, str)


def _replaced(value: object, replace: Callable[[Secret], str]) -> object:
    if isinstance(value, Secret):
        return replace(value)
    if isinstance(value, Mapping):
        return {key: _replaced(item, replace) for key, item in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, replace) for item in cast("list[object]", value)]
    return value


def _keep_mask(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    # pydantic turns a subclass of str into plain text; the checked value is the same text, so the mask can stay
    checked = validate(value)
    return value if isinstance(value, Secret) else checked


def _dumped(value: Mapping[str, object], info: SerializationInfo) -> object:
    return masked(value) if info.mode == "json" else dict(value)


V = TypeVar("V")

Text = Annotated[str, WrapValidator(_keep_mask), PlainSerializer(masked, return_type=str, when_used="json")]
"""A string that stays masked where it came masked."""

ReadOnlyMap = Annotated[Mapping[str, V], AfterValidator(MappingProxyType), PlainSerializer(dict)]
"""A map that cannot be changed, as the rest of a frozen model cannot."""

FreeMap = Annotated[Mapping[str, object], AfterValidator(MappingProxyType), PlainSerializer(_dumped)]
"""The same with any content."""

TextMap = Annotated[Mapping[str, Text], AfterValidator(MappingProxyType), PlainSerializer(_dumped)]
