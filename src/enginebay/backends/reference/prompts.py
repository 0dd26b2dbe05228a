"""Any prompt to the token ids that the engine sees."""

from __future__ import annotations

from enginebay.backends.reference.tokenizer import ModelTokenizer
from enginebay.errors import ContextTooLong, InvalidRequest
from enginebay.types import Chat, GenerationRequest, Message, Prompt, Text, TextPart, TokenIds

_SHORT_CHARACTERS = 4096
"""Encoded in about a millisecond: cheaper than a change of threads."""


def prompt_token_ids(prompt: Prompt, tokenizer: ModelTokenizer) -> list[int]:
    """Blocking. Raises InvalidRequest naming the field."""
    if isinstance(prompt, TokenIds):
        return list(prompt.token_ids)
    if isinstance(prompt, Text):
        text, add_special_tokens = prompt.text, prompt.add_special_tokens
    else:
        text, add_special_tokens = tokenizer.chat_template.render(prompt), prompt.add_special_tokens
    token_ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
    if not token_ids:
        raise InvalidRequest("the prompt is empty", field=field_of(prompt))
    return token_ids


def is_short(prompt: Prompt) -> bool:
    """Whether it may be tokenised on the event loop without a stall."""
    if isinstance(prompt, TokenIds):
        return True
    if isinstance(prompt, Text):
        return len(prompt.text) <= _SHORT_CHARACTERS
    has_own_work = prompt.template is not None or prompt.tools or prompt.template_kwargs
    return not has_own_work and sum(map(_num_characters, prompt.messages)) <= _SHORT_CHARACTERS


def fitting(request: GenerationRequest, token_ids: list[int], *, max_model_len: int) -> list[int]:
    """The prompt, truncated if the request says so. Raises ContextTooLong where the output wouldn't fit behind it."""
    if request.truncate_prompt_tokens is not None:
        token_ids = token_ids[-request.truncate_prompt_tokens :]
    num_tokens, max_tokens = len(token_ids), request.sampling.max_tokens
    room_for_output = 1 if max_tokens > 0 else 0
    if num_tokens + room_for_output > max_model_len:
        raise ContextTooLong(num_tokens=num_tokens, limit=max_model_len, field=field_of(request.prompt))
    if num_tokens + max_tokens > max_model_len:
        raise ContextTooLong(num_tokens=num_tokens, limit=max_model_len, max_tokens=max_tokens, field="max_tokens")
    return token_ids


def field_of(prompt: Prompt) -> str:
    return "messages" if isinstance(prompt, Chat) else "prompt"


def _num_characters(message: Message) -> int:
    if isinstance(message.content, tuple):
        return sum(len(part.text) for part in message.content if isinstance(part, TextPart))
    return len(message.content or "") + (len(str(message.tool_calls)) if message.tool_calls else 0)
