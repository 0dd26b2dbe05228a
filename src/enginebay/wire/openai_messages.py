"""Chat messages as clients send them, made a `Chat`."""

from __future__ import annotations

from enginebay.errors import InvalidRequest, UnsupportedFeature
from enginebay.types import Chat, ImagePart, Message, TextPart
from enginebay.wire.openai_requests import ChatBody, ChatMessageBody, ImageContent, TextContent, TokenizeBody
from enginebay.wire.openai_tools import checked_tool_calls, checked_tools

_REPLAYED_FIELDS = ("refusal", "annotations", "audio", "function_call", "reasoning", "reasoning_content")


def chat_prompt(body: ChatBody, *, backend: str) -> Chat:
    add_generation_prompt = body.add_generation_prompt
    if add_generation_prompt is None:
        add_generation_prompt = not body.continue_final_message
    if body.continue_final_message and add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other", field="continue_final_message"
        )
    tools = checked_tools(body.tools, body.tool_choice)
    return Chat(
        messages=_messages(body.messages, backend=backend),
        tools=tools,
        tool_choice=body.tool_choice if tools else None,
        template_kwargs=body.chat_template_kwargs or {},
        template=body.chat_template,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=bool(body.continue_final_message),
        add_special_tokens=bool(body.add_special_tokens),
    )


def tokenize_chat(body: TokenizeBody, messages: list[ChatMessageBody], *, backend: str) -> Chat:
    return Chat(messages=_messages(messages, backend=backend), add_special_tokens=bool(body.add_special_tokens))


def _messages(messages: list[ChatMessageBody], *, backend: str) -> tuple[Message, ...]:
    return tuple(_message(message, f"messages[{index}]", backend) for index, message in enumerate(messages))


def _message(message: ChatMessageBody, path: str, backend: str) -> Message:
    for field in _REPLAYED_FIELDS:
        if getattr(message, field):
            raise UnsupportedFeature(field=f"{path}.{field}", backend=backend)
    if message.content is None and not message.tool_calls:
        raise InvalidRequest(f"{path} has no content", field=f"{path}.content")
    return Message(
        role=message.role,
        content=_content(message.content, path, backend),
        name=message.name,
        tool_calls=checked_tool_calls(message.tool_calls, path),
        tool_call_id=message.tool_call_id,
    )


def _content(
    content: str | list[TextContent | ImageContent] | None, path: str, backend: str
) -> str | tuple[TextPart | ImagePart, ...] | None:
    if content is None or isinstance(content, str):
        return content
    return tuple(_part(part, f"{path}.content[{index}]", backend) for index, part in enumerate(content))


def _part(part: TextContent | ImageContent, path: str, backend: str) -> TextPart | ImagePart:
    if isinstance(part, TextContent):
        return TextPart(part.text)
    if part.image_url.detail not in (None, "auto"):
        raise UnsupportedFeature(field=f"{path}.image_url.detail", backend=backend)
    if not part.image_url.url.startswith(("https://", "data:")):
        raise InvalidRequest(f"{path} is no https: or data: URL", field=f"{path}.image_url.url")
    return ImagePart(part.image_url.url)
