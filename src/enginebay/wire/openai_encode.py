"""A `GenerationRequest` as the JSON body of /v1/completions or /v1/chat/completions.

Every sampling field is always sent, since servers differ in their defaults. What the dialect has no field for is
refused by name, never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import msgspec

from enginebay.errors import UnsupportedFeature
from enginebay.types import Chat, GenerationRequest, Message, ResponseFormat, SamplingParams, Text, TextPart
from enginebay.wire.openai_dialects import VLLM_FIELDS, Dialect

JsonFields = dict[str, object]
Form = Literal["completions", "chat"]
PATHS: Mapping[Form, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
RESERVED_FIELDS = VLLM_FIELDS | {
    "echo", "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "messages", "model",
    "n", "presence_penalty", "prompt", "response_format", "seed", "stop", "stream", "stream_options", "temperature",
    "tool_choice", "tools", "top_logprobs", "top_p",
}  # fmt: skip
"""Fields that a request itself decides: no configuration may set them beside it."""

# A field of an extension at one of these values changes nothing: a dialect without the field does the same.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "top_k": (0,),
    "min_p": (0.0,),
    "repetition_penalty": (1.0,),
    "stop_token_ids": ((),),
    "include_stop_str_in_output": (False,),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "skip_special_tokens": (True,),
    "priority": (0,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "return_token_ids": (True, False),
}
_STRUCTURED = ("regex", "grammar", "choice")
_encode = msgspec.json.Encoder().encode


def form_of(request: GenerationRequest) -> Form:
    return "chat" if isinstance(request.prompt, Chat) else "completions"


def is_streamed(request: GenerationRequest) -> bool:
    """Log-probabilities of the prompt come only with a whole answer."""
    return request.delivery == "stream" and request.prompt_logprobs is None


def encode_request(
    request: GenerationRequest,
    *,
    model: str,
    dialect: Dialect,
    backend: str,
    return_token_ids: bool = True,
    extra_body: Mapping[str, object] | None = None,
) -> bytes:
    """Raises UnsupportedFeature, naming the field. backend: the name that the error carries."""
    fields: JsonFields = {"model": request.adapter or model, **_sampling(request.sampling)}
    extensions = _extensions(request)
    extensions["return_token_ids"] = return_token_ids
    if isinstance(request.prompt, Chat):
        fields.update(_chat(request.prompt))
        fields.update(_chat_logprobs(request.logprobs))
        extensions.update(_chat_extensions(request.prompt))
    else:
        text = request.prompt
        fields["prompt"] = text.text if isinstance(text, Text) else text.token_ids
        if request.logprobs is not None:
            fields["logprobs"] = request.logprobs
        if isinstance(text, Text):
            extensions["add_special_tokens"] = text.add_special_tokens
    fields.update(_response_format(request.response_format))
    if request.response_format is not None and request.response_format.type in _STRUCTURED:
        extensions["structured_outputs"] = {request.response_format.type: request.response_format.schema}
    is_completion = form_of(request) == "completions"  # a chat's template brings its own special tokens
    fields.update(_within(dialect, extensions, add_special_tokens=is_completion, backend=backend))
    if is_streamed(request):
        fields["stream"] = True
        fields["stream_options"] = {"include_usage": True}
    return _encode({**fields, **(extra_body or {})})


def encode_tokenize(prompt: Text | Chat, *, model: str) -> bytes:
    """The body of /tokenize."""
    if isinstance(prompt, Text):
        return _encode({"model": model, "prompt": prompt.text, "add_special_tokens": prompt.add_special_tokens})
    messages = [_message(message) for message in prompt.messages]
    return _encode({"model": model, "messages": messages, "add_special_tokens": prompt.add_special_tokens})


def _sampling(sampling: SamplingParams) -> JsonFields:
    fields: JsonFields = {
        "n": 1,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": sampling.stop,
    }
    if sampling.logit_bias:
        fields["logit_bias"] = sampling.logit_bias
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    return fields


def _extensions(request: GenerationRequest) -> JsonFields:
    sampling = request.sampling
    fields: JsonFields = {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "stop_token_ids": sampling.stop_token_ids,
        "include_stop_str_in_output": sampling.include_stop_str_in_output,
        "ignore_eos": sampling.ignore_eos,
        "min_tokens": sampling.min_tokens,
        "skip_special_tokens": sampling.skip_special_tokens,
        "priority": request.priority,
    }
    for name in ("prompt_logprobs", "truncate_prompt_tokens", "cache_salt"):
        if (value := getattr(request, name)) is not None:
            fields[name] = value
    return fields


def _chat(chat: Chat) -> JsonFields:
    fields: JsonFields = {"messages": [_message(message) for message in chat.messages]}
    if chat.tools:
        fields["tools"] = chat.tools
    if chat.tool_choice is not None:
        fields["tool_choice"] = chat.tool_choice
    return fields


def _chat_extensions(chat: Chat) -> JsonFields:
    fields: JsonFields = {
        "add_special_tokens": chat.add_special_tokens,
        "add_generation_prompt": chat.add_generation_prompt,
        "continue_final_message": chat.continue_final_message,
    }
    if chat.template is not None:
        fields["chat_template"] = chat.template
    if chat.template_kwargs:
        fields["chat_template_kwargs"] = chat.template_kwargs
    return fields


def _chat_logprobs(logprobs: int | None) -> JsonFields:
    return {} if logprobs is None else {"logprobs": True, "top_logprobs": logprobs}


def _message(message: Message) -> JsonFields:
    fields: JsonFields = {"role": message.role, "content": _content(message)}
    if message.name is not None:
        fields["name"] = message.name
    if message.tool_calls:
        fields["tool_calls"] = message.tool_calls
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    return fields


def _content(message: Message) -> object:
    if not isinstance(message.content, tuple):
        return message.content
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "image_url", "image_url": {"url": part.url}}
        for part in message.content
    ]


def _response_format(wanted: ResponseFormat | None) -> JsonFields:
    if wanted is None or wanted.type == "text" or wanted.type in _STRUCTURED:
        return {}
    if wanted.type == "json_object":
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": _named(wanted.schema)}}


def _named(schema: object) -> object:
    """The OpenAI API's object around a JSON schema. A bare one, as structured_outputs has it, gets one: `name` and
    `schema` are no keywords of a JSON schema."""
    if isinstance(schema, Mapping) and not {"name", "schema"} & cast("Mapping[str, object]", schema).keys():
        return {"name": "answer", "schema": cast("object", schema)}
    return cast("object", schema)


def _within(dialect: Dialect, extensions: JsonFields, *, add_special_tokens: bool, backend: str) -> JsonFields:
    """The fields that the dialect has. add_special_tokens: what a server without that field does."""
    if extensions.keys() <= dialect.fields:
        return extensions
    for name, value in extensions.items():
        neutral = (add_special_tokens,) if name == "add_special_tokens" else _NEUTRAL.get(name, ())
        if name not in dialect.fields and value not in neutral:
            raise UnsupportedFeature(field=name, backend=backend)
    return {name: value for name, value in extensions.items() if name in dialect.fields}
