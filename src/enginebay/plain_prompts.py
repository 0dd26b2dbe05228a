"""The forms in which a script may give prompts: texts, token ids, and messages as plain dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard, cast

from enginebay.errors import InvalidRequest
from enginebay.types import Chat, ImagePart, Message, Prompt, Text, TextPart, TokenIds

PlainPrompt = str | Sequence[int] | Text | TokenIds | Chat
PlainMessage = Message | Mapping[str, Any]
Conversation = Sequence[PlainMessage]

_MESSAGE_KEYS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id"})


def prompts_of(given: PlainPrompt | Sequence[PlainPrompt]) -> list[tuple[PlainPrompt, Prompt]]:
    """Each prompt as it was given, and what it becomes. A list of numbers is one prompt of token ids."""
    if isinstance(given, str | Text | TokenIds | Chat) or _is_token_ids(given):
        return [(cast(PlainPrompt, given), prompt_of(cast(PlainPrompt, given)))]
    if not _is_list(given):
        raise _no_prompt(given)
    return [(prompt, prompt_of(prompt)) for prompt in cast(Sequence[PlainPrompt], given)]


def prompt_of(given: PlainPrompt) -> Prompt:
    if isinstance(given, Text | TokenIds | Chat):
        return given
    if isinstance(given, str):
        return Text(given)
    if _is_token_ids(given):
        return TokenIds(tuple(given))
    raise _no_prompt(given)


def _no_prompt(given: object) -> InvalidRequest:
    return InvalidRequest(
        f"a prompt is a text, a list of token ids or a Chat, not {type(given).__name__}; messages go to chat()",
        field="prompt",
    )


def conversations_of(given: Conversation | Sequence[Conversation]) -> list[Conversation]:
    if is_conversation(given):
        return [cast(Conversation, given)]
    if not _is_list(given) or not all(map(is_conversation, given)):
        raise InvalidRequest("chat() takes a list of messages, or a list of such lists", field="messages")
    return list(cast(Sequence[Conversation], given))


def is_conversation(given: object) -> bool:
    """A list of messages; an empty one too, which is refused later for its lack of messages."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        return False
    return all(isinstance(message, Message | Mapping) for message in cast(Iterable[object], given))


def chat_of(messages: Conversation, fields: Mapping[str, Any]) -> Chat:
    """fields: further fields of `Chat`."""
    try:
        return Chat(tuple(_message(message) for message in messages), **fields)
    except TypeError as error:
        raise InvalidRequest(f"not a field of a chat: {error}", field="messages") from error


def _message(given: PlainMessage) -> Message:
    if isinstance(given, Message):
        return given
    if unknown := sorted(set(given) - _MESSAGE_KEYS):
        raise InvalidRequest(
            f"a message has no {unknown[0]!r}; it has {', '.join(sorted(_MESSAGE_KEYS))}", field="messages"
        )
    if "role" not in given:
        raise InvalidRequest("a message has no role", field="messages")
    content = given.get("content")
    return Message(
        role=given["role"],
        content=content if content is None or isinstance(content, str) else tuple(map(_part, content)),
        name=given.get("name"),
        tool_calls=tuple(given.get("tool_calls") or ()),
        tool_call_id=given.get("tool_call_id"),
    )


def _part(given: Any) -> TextPart | ImagePart:
    match given:
        case TextPart() | ImagePart():
            return given
        case {"type": "text", "text": str(text)}:
            return TextPart(text)
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return ImagePart(url)
        case _:
            raise InvalidRequest(f"not a part of a message: {given!r}", field="messages")


def _is_list(given: object) -> TypeGuard[Sequence[object]]:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray | memoryview)


def _is_token_ids(given: object) -> bool:
    if not _is_list(given) or not given:
        return False
    return all(isinstance(token_id, int) for token_id in cast(Iterable[object], given))
