"""Messages in the form that chat templates of text models expect: plain dictionaries with text as content."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from enginebay.errors import InvalidRequest
from enginebay.types import Message, TextPart


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [_template_message(message) for message in messages]


def _template_message(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": _text(message)}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_calls:
        plain["tool_calls"] = [_template_tool_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _text(message: Message) -> str:
    """Parts are joined by line breaks, as vLLM joins them for templates that take a string."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    texts: list[str] = []
    for part in message.content:
        if not isinstance(part, TextPart):
            raise InvalidRequest("this model takes text alone", field="image_url")
        texts.append(part.text)
    return "\n".join(texts)


def _template_tool_call(call: Mapping[str, object]) -> dict[str, Any]:
    """On the wire the arguments are a JSON text; templates expect the object."""
    plain = dict(call)
    function = plain.get("function")
    if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
        try:
            arguments = json.loads(function["arguments"] or "{}")
        except ValueError as error:
            raise InvalidRequest(
                f"the arguments of a tool call are not valid JSON: {error}", field="messages"
            ) from error
        plain["function"] = {**function, "arguments": arguments}
    return plain
