"""The body of /tokenize: with everything that shapes a chat's prompt, unlike that of other servers."""

from __future__ import annotations

import msgspec

from enginebay.types import Chat, Text
from enginebay.wire import openai_encode


def encode_tokenize(prompt: Text | Chat, *, model: str) -> bytes:
    plain = openai_encode.encode_tokenize(prompt, model=model)
    if isinstance(prompt, Text):
        return plain
    fields = msgspec.json.decode(plain, type=dict[str, object])
    fields["add_generation_prompt"] = prompt.add_generation_prompt
    fields["continue_final_message"] = prompt.continue_final_message
    if prompt.template is not None:
        fields["chat_template"] = prompt.template
    if prompt.template_kwargs:
        fields["chat_template_kwargs"] = prompt.template_kwargs
    if prompt.tools:
        fields["tools"] = prompt.tools
    return msgspec.json.encode(fields)
