"""The form of the output, as TGI's grammars."""

from __future__ import annotations

from typing import cast

import msgspec

from enginebay.errors import InvalidRequest, UnsupportedFeature
from enginebay.types import ResponseFormat


def grammar_of(wanted: ResponseFormat | None, *, backend: str) -> dict[str, object] | None:
    """None where the text is free. Raises InvalidRequest for what is no schema, and UnsupportedFeature."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "regex":
        return {"type": "regex", "value": _pattern(wanted.schema)}
    if wanted.type == "json_schema":
        return {"type": "json", "value": _schema(wanted.schema)}
    detail = f"TGI has json_schema and regex, but no {wanted.type}"
    raise UnsupportedFeature(field="response_format", backend=backend, detail=detail)


def _pattern(given: object) -> str:
    if not isinstance(given, str) or not given:
        raise InvalidRequest(f"the regex is {given!r}, expected a pattern", field="response_format")
    return given


def _schema(given: object) -> dict[str, object]:
    """An object, or its JSON; the OpenAI form wraps it in an object with a name."""
    try:
        read = msgspec.json.decode(given) if isinstance(given, str) else given
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(f"the schema is no JSON: {error}", field="response_format") from error
    if isinstance(read, dict) and "schema" in read:
        read = cast("dict[str, object]", read)["schema"]
    if not isinstance(read, dict):
        problem = f"the schema is {read!r:.80}, expected an object, or its JSON as a string"
        raise InvalidRequest(problem, field="response_format")
    return cast("dict[str, object]", read)
