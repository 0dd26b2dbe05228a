"""Any prompt to token ids, by the engine's own tokenizer."""

from __future__ import annotations

from typing import Any

from enginebay.errors import ContextTooLong, InvalidRequest
from enginebay.types import Chat, GenerationRequest, Message, Prompt, Text, TextPart, TokenIds


def prompt_token_ids(tokenizer: Any, prompt: Prompt, *, vocab_size: int) -> tuple[int, ...]:
    """Raises InvalidRequest naming the field."""
    if isinstance(prompt, TokenIds):
        _demand_known(prompt.token_ids, vocab_size=vocab_size)
        return prompt.token_ids
    if isinstance(prompt, Text):
        text, add_special_tokens = prompt.text, prompt.add_special_tokens
    else:
        text, add_special_tokens = _rendered(tokenizer, prompt), prompt.add_special_tokens
    encoded = tokenizer.encode(text, add_special_tokens=add_special_tokens).input_ids.data
    token_ids = tuple(encoded.reshape(-1).tolist())
    if not token_ids:
        raise InvalidRequest("the prompt is empty", field=field_of(prompt))
    return token_ids


def fitting(request: GenerationRequest, token_ids: tuple[int, ...], *, limit: int | None) -> tuple[int, ...]:
    """The prompt, truncated if the request says so. Raises ContextTooLong where the output wouldn't fit behind it."""
    if request.truncate_prompt_tokens is not None:
        token_ids = token_ids[-request.truncate_prompt_tokens :]
    num_tokens, max_tokens = len(token_ids), request.sampling.max_tokens
    if limit is None or num_tokens + max_tokens <= limit:
        return token_ids
    if num_tokens + 1 > limit:
        raise ContextTooLong(num_tokens=num_tokens, limit=limit, field=field_of(request.prompt))
    raise ContextTooLong(num_tokens=num_tokens, limit=limit, max_tokens=max_tokens, field="max_tokens")


def field_of(prompt: Prompt) -> str:
    return "messages" if isinstance(prompt, Chat) else "prompt"


def _demand_known(token_ids: tuple[int, ...], *, vocab_size: int) -> None:
    """The engine would take any number for a token and compute with whatever is there."""
    highest = max(token_ids)
    if highest >= vocab_size:
        raise InvalidRequest(f"the prompt has token {highest}, the vocabulary {vocab_size} tokens", field="prompt")


def _rendered(tokenizer: Any, chat: Chat) -> str:
    try:
        return tokenizer.apply_chat_template(
            [_as_dict(message) for message in chat.messages],
            chat.add_generation_prompt,
            chat_template=chat.template or "",
            extra_context=dict(chat.template_kwargs),
        )
    except RuntimeError as error:
        reason = str(error).partition("Minja's error:")[2].strip() or str(error)
        raise InvalidRequest(
            f"the chat template refuses these messages: {reason.splitlines()[0]}", field="messages"
        ) from error


def _as_dict(message: Message) -> dict[str, object]:
    content = message.content
    if isinstance(content, tuple):
        content = "".join(part.text for part in content if isinstance(part, TextPart))
    named = {} if message.name is None else {"name": message.name}
    return {"role": message.role, "content": content or "", **named}
