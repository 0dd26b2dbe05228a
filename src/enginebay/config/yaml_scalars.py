"""What a scalar means: the core schema of YAML 1.2 and nothing else, so `yes`, `off`, `1_000` and dates are text.

Source: YAML 1.2.2, section 10.3.2, tag resolution.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Scalar = str | int | float | bool | None

_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")

_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBERS: tuple[tuple[re.Pattern[str], Callable[[str], Scalar]], ...] = (
    (_DECIMAL, int),
    (_OCTAL, lambda text: int(text[2:], 8)),
    (_HEXADECIMAL, lambda text: int(text, 16)),
    (_FLOAT, float),
    (_INFINITE, lambda text: float(text.replace(".", ""))),
    (_NAN, lambda _: float("nan")),
)
_TAGS: dict[str, tuple[type, ...]] = {
    "tag:yaml.org,2002:null": (type(None),),
    "tag:yaml.org,2002:bool": (bool,),
    "tag:yaml.org,2002:int": (int,),
    "tag:yaml.org,2002:float": (float, int),
}


def plain_scalar(text: str) -> Scalar:
    """The value of an unquoted scalar without a tag."""
    if text in _WORDS:
        return _WORDS[text]
    for pattern, read in _NUMBERS:
        if pattern.fullmatch(text):
            return read(text)
    return text


def tagged_scalar(text: str, tag: str) -> Scalar:
    """The value of a scalar with an explicit tag. Raises ValueError where the tag is unknown or does not fit."""
    if tag in ("tag:yaml.org,2002:str", "!"):
        return text
    value = plain_scalar(text)
    if tag not in _TAGS:
        raise ValueError(f"the tag {tag!r} has no meaning here")
    if type(value) not in _TAGS[tag]:
        raise ValueError(f"{text!r} does not fit its tag {tag!r}")
    return float(value) if tag.endswith("float") and isinstance(value, int) else value
