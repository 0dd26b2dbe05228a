"""Whether every text of a request can be written as UTF-8, as every engine wants it.

Half of a character of UTF-16 (a lone surrogate) is a str to Python; text that was cut at a wrong place holds one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from enginebay.errors import InvalidRequest
from enginebay.types import Chat, GenerationRequest, ImagePart, Message, Prompt, Text, TextPart


def check_texts(request: GenerationRequest) -> None:
    """Raise InvalidRequest naming the field."""
    for field, text in _texts_of_request(request):
        _check_text(field, text)
    check_prompt_texts(request.prompt)


def check_prompt_texts(prompt: Prompt) -> None:
    for field, text in _texts_of_prompt(prompt):
        _check_text(field, text)


def _check_text(field: str, text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{field} is no text: character {error.start} is half of one ({text[error.start]!r})", field=field
        ) from error


def _texts_of_request(request: GenerationRequest) -> Iterator[tuple[str, str]]:
    for field in ("request_id", "session_key", "cache_salt", "adapter"):
        yield field, getattr(request, field) or ""
    yield from (("stop", stop) for stop in request.sampling.stop)
    if request.response_format is not None:
        yield from _texts_within("response_format", request.response_format.schema)


def _texts_of_prompt(prompt: Prompt) -> Iterator[tuple[str, str]]:
    if isinstance(prompt, Text):
        yield "prompt", prompt.text
    elif isinstance(prompt, Chat):
        for index, message in enumerate(prompt.messages):
            yield from _texts_of_message(f"messages[{index}]", message)
        yield "chat_template", prompt.template or ""
        yield from _texts_within("chat_template_kwargs", prompt.template_kwargs)
        yield from _texts_within("tools", prompt.tools)
        yield from _texts_within("tool_choice", prompt.tool_choice)


def _texts_of_message(place: str, message: Message) -> Iterator[tuple[str, str]]:
    for field in ("role", "content", "name", "tool_calls", "tool_call_id"):
        yield from _texts_within(f"{place}.{field}", getattr(message, field))


def _texts_within(field: str, value: object) -> Iterator[tuple[str, str]]:
    """Keys and values, however deep: a client may send any JSON here. What is no text is for others to judge."""
    left: list[object] = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            yield field, each
        elif isinstance(each, Mapping):
            mapping = cast(Mapping[object, object], each)
            left += [*mapping.keys(), *mapping.values()]
        elif isinstance(each, list | tuple):
            left += cast(Sequence[object], each)
        elif isinstance(each, TextPart | ImagePart):
            left.append(each.text if isinstance(each, TextPart) else each.url)
