"""The chat template of simulated engines: plain enough to be read in a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def render_chat(messages: Sequence[Mapping[str, object]]) -> str:
    """`role: content` lines and the opening of the answer. Parts that are no text count by their type alone."""
    lines = [f"{message.get('role', '')}: {_content(message.get('content'))}\n" for message in messages]
    return "".join(lines) + "assistant:"


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(_part(part) for part in content)  # type: ignore[reportUnknownVariableType]


def _part(part: object) -> str:
    if not isinstance(part, Mapping):
        return ""
    text = part.get("text")  # type: ignore[reportUnknownMemberType]
    return text if isinstance(text, str) else f"<{part.get('type')}>"  # type: ignore[reportUnknownMemberType]
