"""The OpenAPI document as one page of HTML: no script, no network, nothing but what this server sends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from html import escape
from typing import Any

from enginebay.gateway.openapi.document import document

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1f24;background:#fff}
code{font:14px ui-monospace,monospace}h2{margin-top:2.5rem;border-bottom:1px solid #d5d9e0}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;
border-bottom:1px solid #eceef2}.method{display:inline-block;min-width:3.5rem;font-weight:600}
summary{cursor:pointer;padding:.4rem 0}a{color:#0b57d0}
"""


@cache
def docs_page() -> bytes:
    return _page(document()).encode()


def _page(api: dict[str, Any]) -> str:
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>{escape(api['info']['title'])} API</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(api['info']['title'])} {escape(api['info']['version'])}</h1>",
        f"<p>{escape(api['info']['description'])} <a href='/openapi.json'>openapi.json</a></p><h2>Paths</h2>",
        *_operations(api["paths"]),
        "<h2>Bodies</h2>",
        *_schemas(api["components"]["schemas"]),
        "</body></html>",
    ]
    return "\n".join(parts)


def _operations(paths: dict[str, Any]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield (
                f"<details><summary><span class='method'>{method.upper()}</span> <code>{escape(path)}</code> "
                f"{escape(operation['summary'])}</summary>"
            )
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body is not None:
                yield f"<p>Body: {_type(body)}</p>"
            yield from _table("Parameter", [(row["name"], row["schema"], row.get("description", "")) for row in
                                            operation.get("parameters", [])])  # fmt: skip
            yield "<table><tr><th>Status</th><th>Answer</th></tr>"
            for status, answer in operation["responses"].items():
                kinds = ", ".join(_type(content["schema"]) for content in answer["content"].values())
                yield f"<tr><td>{status}</td><td>{escape(answer['description'])}: {kinds}</td></tr>"
            yield "</table></details>"


def _schemas(schemas: dict[str, Any]) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        required = schema.get("required", [])
        yield f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{escape(schema.get('description', ''))}</p>"
        fields = [
            (f"{field} (required)" if field in required else field, inner, inner.get("description", ""))
            for field, inner in schema.get("properties", {}).items()
        ]
        yield from _table("Field", fields)


def _table(head: str, rows: list[tuple[str, dict[str, Any], str]]) -> Iterator[str]:
    if not rows:
        return
    yield f"<table><tr><th>{head}</th><th>Type</th><th></th></tr>"
    for name, schema, description in rows:
        yield f"<tr><td><code>{escape(name)}</code></td><td>{_type(schema)}</td><td>{escape(description)}</td></tr>"
    yield "</table>"


def _type(schema: dict[str, Any]) -> str:
    """In a few words, with links to the bodies; escaped."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"<a href='#{escape(name)}'>{escape(name)}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return escape(", ".join(map(repr, schema["enum"])))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    bounds = "" if low is None and high is None else f" {'' if low is None else low} to {'' if high is None else high}"
    return escape(f"{schema.get('type', 'anything')}{bounds}")
