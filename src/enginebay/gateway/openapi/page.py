"""The OpenAPI document as one page of HTML: no script, no network, nothing but what this server sends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from typing import Any

from enginebay.gateway.openapi.document import JSON, document
from enginebay.gateway.openapi.style import STYLE

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
BEYOND_INTEREST = 2**32
"""A bound that only says how many bits an integer has is not worth its digits."""

Row = tuple[str, dict[str, Any], bool]
"""Name, schema, whether it must be given."""


@cache
def docs_page() -> bytes:
    return _page(document()).encode()


def _page(api: dict[str, Any]) -> str:
    title, version = escape(api["info"]["title"]), escape(api["info"]["version"])
    schemas = api["components"]["schemas"]
    asked = {name for name in schemas if name.endswith("Body") and name != "ErrorBody"}
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>{title} API</title><style>{STYLE}</style></head><body>",
        f"<header><h1>{title} <small>API {version}</small></h1><p>{_text(api['info']['description'])}</p>",
        "<nav><a href='#paths'>Paths</a><a href='#requests'>Requests</a><a href='#answers'>Answers</a>"
        "<a href='/openapi.json'>openapi.json</a></nav></header>",
        "<h2 id='paths'>Paths</h2>",
        *_operations(api["paths"]),
        "<h2 id='requests'>Requests</h2>",
        *_schemas({name: schema for name, schema in schemas.items() if name in asked}),
        "<h2 id='answers'>Answers, and parts of both</h2>",
        *_schemas({name: schema for name, schema in schemas.items() if name not in asked}),
        "</body></html>",
    ]
    return "\n".join(parts)


def _operations(paths: dict[str, Any]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield (
                f"<details><summary><span class='method {method}'>{method.upper()}</span> <code>{escape(path)}</code> "
                f"<span class='says'>{escape(operation['summary'])}</span></summary>"
            )
            yield from _asked(path, operation)
            yield "<table><tr><th>Status</th><th>Answer</th><th>Codes</th></tr>"
            for status, answer in operation["responses"].items():
                yield f"<tr><td>{status}</td>{_answer(status, answer)}</tr>"
            yield "</table></details>"


def _asked(path: str, operation: dict[str, Any]) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {}).get(JSON)
    if content is not None:
        yield f"<p>Body: {_type(content['schema'])}</p><pre>{escape(_curl(path, content['example']))}</pre>"
    parameters = operation.get("parameters", [])
    yield from _table("Parameter", [(row["name"], row["schema"], row["required"]) for row in parameters])


def _curl(path: str, example: object) -> str:
    body = json.dumps(example)
    return f"curl $SERVER{path} -H 'content-type: application/json' \\\n  -d '{body}'"


def _answer(status: str, answer: dict[str, Any]) -> str:
    kinds = " or ".join(_kind(form, content["schema"]) for form, content in answer["content"].items())
    codes = [] if status == "200" else answer["description"].split(", ")
    return f"<td>{kinds}</td><td>{' '.join(map(_code, codes))}</td>"


def _kind(media_type: str, schema: dict[str, Any]) -> str:
    shown = f"<code>{escape(media_type)}</code>"
    return {JSON: _type(schema), "text/event-stream": f"events, as {shown}"}.get(media_type, f"text, as {shown}")


def _code(words: str) -> str:
    return escape(words) if " " in words else f"<code>{escape(words)}</code>"


def _schemas(schemas: dict[str, Any]) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        required = schema.get("required", [])
        yield f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{_text(schema.get('description', ''))}</p>"
        yield from _table("Field", [(field, row, field in required) for field, row in schema["properties"].items()])


def _table(head: str, rows: Sequence[Row]) -> Iterator[str]:
    """What must be given stands first."""
    if not rows:
        return
    has_meanings = any("description" in schema for _, schema, _ in rows)
    yield f"<table><tr><th>{head}</th><th>Type</th>{'<th>Meaning</th>' * has_meanings}</tr>"
    for name, schema, is_required in sorted(rows, key=lambda row: not row[2]):
        mark = " <em>required</em>" if is_required else ""
        meaning = f"<td>{_text(schema.get('description', ''))}</td>" * has_meanings
        yield f"<tr><td><code>{escape(name)}</code>{mark}</td><td>{_type(schema)}</td>{meaning}</tr>"
    yield "</table>"


def _text(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def _type(schema: dict[str, Any]) -> str:
    """In a few words, with links to the bodies; escaped. That null leaves a field out goes without saying."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"<a href='#{escape(name)}'>{escape(name)}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"] if choice.get("type") != "null")
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = schema.get("type", "any value")
    return escape(" or ".join(kind) if isinstance(kind, list) else kind) + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    words = [
        *([f"from {low:g}"] if low is not None and abs(low) < BEYOND_INTEREST else []),
        *([f"above {above:g}"] if above is not None else []),
        *([f"to {high:g}"] if high is not None and high < BEYOND_INTEREST else []),
    ]
    return "".join(f" {word}" for word in words)
