"""Prompts made what `AsyncLLM.generate` wants: through the engine's own renderer, as its server does."""

from __future__ import annotations

from typing import Any

from enginebay.types import Chat, GenerationRequest, Message, Prompt, Text, TextPart


async def rendered(engine: Any, prompt: Prompt, request: GenerationRequest | None = None) -> Any:
    """The engine's input, tokens and all. Without a request no length is demanded: the tokens are only counted."""
    from vllm.renderers.inputs.preprocess import parse_model_prompt  # pyright: ignore[reportMissingImports]

    renderer = engine.renderer
    params = _tokenize_params(engine, prompt, request)
    extras = {"cache_salt": request.cache_salt} if request is not None and request.cache_salt is not None else None
    if isinstance(prompt, Chat):
        _, inputs = await renderer.render_chat_async(
            [[_message(message) for message in prompt.messages]], _chat_params(prompt), params, prompt_extras=extras
        )
        return inputs[0]
    plain = {"prompt": prompt.text} if isinstance(prompt, Text) else {"prompt_token_ids": list(prompt.token_ids)}
    parsed = parse_model_prompt(engine.model_config, plain)
    (rendered_input,) = await renderer.render_cmpl_async([parsed], params, prompt_extras=extras)
    return rendered_input


def _tokenize_params(engine: Any, prompt: Prompt, request: GenerationRequest | None) -> Any:
    from vllm.renderers import TokenizeParams  # pyright: ignore[reportMissingImports]

    is_token_ids = not isinstance(prompt, (Text, Chat))
    return TokenizeParams(
        max_total_tokens=None if request is None else engine.model_config.max_model_len,
        max_output_tokens=0 if request is None else request.sampling.max_tokens,
        add_special_tokens=False if is_token_ids else prompt.add_special_tokens,
        truncate_prompt_tokens=None if request is None else request.truncate_prompt_tokens,
        truncation_side="left",
        max_total_tokens_param="max_model_len",
        max_output_tokens_param="max_tokens",
    )


def _chat_params(chat: Chat) -> Any:
    from vllm.renderers import ChatParams  # pyright: ignore[reportMissingImports]

    return ChatParams(
        chat_template=chat.template,
        chat_template_kwargs={
            **chat.template_kwargs,
            "add_generation_prompt": chat.add_generation_prompt,
            "continue_final_message": chat.continue_final_message,
        },
    )


def _message(message: Message) -> dict[str, object]:
    fields: dict[str, object] = {"role": message.role, "content": _content(message)}
    if message.name is not None:
        fields["name"] = message.name
    return fields


def _content(message: Message) -> object:
    if not isinstance(message.content, tuple):
        return message.content
    return [{"type": "text", "text": part.text} for part in message.content if isinstance(part, TextPart)]
