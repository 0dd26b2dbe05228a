"""Prompts as msgpack: a union of dataclasses has no tag, these frames have one."""

from __future__ import annotations

from typing import Any

import msgspec

from enginebay.types import Chat, ImagePart, Message, Prompt, Text, TextPart, TokenIds


class TextFrame(msgspec.Struct, frozen=True, tag="text"):
    prompt: Text


class TokenIdsFrame(msgspec.Struct, frozen=True, tag="token_ids"):
    prompt: TokenIds


class Part(msgspec.Struct, frozen=True):
    """Of a message: a text, or the address of an image."""

    text: str | None = None
    url: str | None = None


class MessageFrame(msgspec.Struct, frozen=True, kw_only=True):
    role: str
    content: str | tuple[Part, ...] | None
    name: str | None
    tool_calls: tuple[dict[str, Any], ...]
    tool_call_id: str | None


class ChatFrame(msgspec.Struct, frozen=True, kw_only=True, tag="chat"):
    messages: tuple[MessageFrame, ...]
    tools: tuple[dict[str, Any], ...]
    tool_choice: str | dict[str, Any] | None
    template_kwargs: dict[str, Any]
    template: str | None
    add_generation_prompt: bool
    continue_final_message: bool
    add_special_tokens: bool


PromptFrame = TextFrame | TokenIdsFrame | ChatFrame


def prompt_frame(prompt: Prompt) -> PromptFrame:
    if isinstance(prompt, Text):
        return TextFrame(prompt)
    return TokenIdsFrame(prompt) if isinstance(prompt, TokenIds) else _chat_frame(prompt)


def prompt_of(frame: PromptFrame) -> Prompt:
    return _chat_of(frame) if isinstance(frame, ChatFrame) else frame.prompt


def _chat_frame(chat: Chat) -> ChatFrame:
    choice = chat.tool_choice
    return ChatFrame(
        messages=tuple(_message_frame(message) for message in chat.messages),
        tools=tuple(dict(tool) for tool in chat.tools),
        tool_choice=choice if choice is None or isinstance(choice, str) else dict(choice),
        template_kwargs=dict(chat.template_kwargs),
        template=chat.template,
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
        add_special_tokens=chat.add_special_tokens,
    )


def _message_frame(message: Message) -> MessageFrame:
    content = message.content
    return MessageFrame(
        role=message.role,
        content=tuple(_part(part) for part in content) if isinstance(content, tuple) else content,
        name=message.name,
        tool_calls=tuple(dict(call) for call in message.tool_calls),
        tool_call_id=message.tool_call_id,
    )


def _part(part: TextPart | ImagePart) -> Part:
    return Part(text=part.text) if isinstance(part, TextPart) else Part(url=part.url)


def _chat_of(frame: ChatFrame) -> Chat:
    values = {name: getattr(frame, name) for name in frame.__struct_fields__ if name != "messages"}
    return Chat(messages=tuple(_message_of(message) for message in frame.messages), **values)


def _message_of(frame: MessageFrame) -> Message:
    content = frame.content
    if isinstance(content, tuple):
        content = tuple(ImagePart(part.url) if part.url is not None else TextPart(part.text or "") for part in content)
    return Message(
        role=frame.role,
        content=content,
        name=frame.name,
        tool_calls=frame.tool_calls,
        tool_call_id=frame.tool_call_id,
    )
