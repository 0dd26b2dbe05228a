"""The bodies that clients post, as strict structs: an unknown field is refused by name, never ignored.

The fields are those of vLLM's OpenAI server, which most clients are written against, and the OpenAI API's own that
no backend here serves: those are parsed so that a null is accepted and anything else is refused by its name.
A null means that the field was left out. Ranges are checked below, in one place for all callers (`request_checks`).
"""

from __future__ import annotations

import re
from typing import Literal, TypeVar

import msgspec

from enginebay.errors import InvalidRequest

FIELDS_WITHOUT_EFFECT = ("user", "metadata", "store", "service_tier")
"""Accepted because many clients always send them; none changes what is generated here."""

UNSERVED_COMPLETION_FIELDS = ("best_of", "suffix")
UNSERVED_CHAT_FIELDS = (
    "audio", "function_call", "functions", "modalities", "parallel_tool_calls", "prediction", "reasoning_effort",
    "verbosity", "web_search_options",
)  # fmt: skip
"""OpenAI's own fields that no backend here can serve: refused by name unless null."""

JsonObject = dict[str, object]


class _Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class StreamOptions(_Body, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None
    """OpenAI's padding of chunks; only false can be had."""


class _SharedFields(_Body, kw_only=True):
    """What both endpoints take."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    n: int | None = None
    echo: bool | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    priority: int | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    response_format: JsonObject | None = None
    structured_outputs: JsonObject | None = None
    stream_interval: int | None = None
    # no effect
    user: str | None = None
    metadata: JsonObject | None = None
    store: bool | None = None
    service_tier: str | None = None


class CompletionBody(_SharedFields, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[str | int | list[int]]
    """One text, texts, one list of token ids, or lists of token ids; a mixture is refused."""
    logprobs: int | None = None
    # refused unless neutral
    best_of: int | None = None
    suffix: str | None = None


class TextContent(_Body, tag_field="type", tag="text", kw_only=True):
    text: str


class ImageUrl(_Body, kw_only=True):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImageContent(_Body, tag_field="type", tag="image_url", kw_only=True):
    image_url: ImageUrl


class ChatMessageBody(_Body, kw_only=True):
    """The last six are what clients send back when they replay an answer; only null or text can be had of them."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextContent | ImageContent] | None = None
    name: str | None = None
    tool_calls: list[JsonObject] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: list[JsonObject] | None = None
    audio: JsonObject | None = None
    function_call: JsonObject | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class ChatBody(_SharedFields, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[ChatMessageBody]
    max_completion_tokens: int | None = None
    """Newer name of max_tokens; where both are given they must agree."""
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: JsonObject | None = None
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None
    # refused unless null
    audio: JsonObject | None = None
    function_call: str | JsonObject | None = None
    functions: list[JsonObject] | None = None
    modalities: list[str] | None = None
    parallel_tool_calls: bool | None = None
    prediction: JsonObject | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    web_search_options: JsonObject | None = None


class TokenizeBody(_Body, kw_only=True):
    """POST /tokenize: `prompt` or `messages`, not both."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessageBody] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class GenerateBody(_Body, kw_only=True):
    """POST /generate."""

    model: str | None = None
    """The lesson has none; it is needed where more than one is served."""
    prompt: str
    max_tokens: int = 200
    temperature: float = 0.8
    top_p: float = 0.95


BodyType = TypeVar("BodyType", bound=_Body)


def parse(data: bytes, decoder: msgspec.json.Decoder[BodyType]) -> BodyType:
    """Raises InvalidRequest that names the field."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _named(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(data, error) from error


def parse_query(query: dict[str, str], body_type: type[BodyType]) -> BodyType:
    """Query parameters as a body; numbers are read from their text. Raises InvalidRequest."""
    try:
        return msgspec.convert(query, body_type, strict=False)
    except msgspec.ValidationError as error:
        raise _named(error) from error


_FIELD = re.compile(r"^Object (?P<problem>contains unknown|missing required) field `(?P<field>[^`]*)`")
_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$")
_NOT_JSON_NUMBER = re.compile(rb'"(\w{1,64})"\s*:\s*(NaN|-?Infinity)')


def _named(error: msgspec.ValidationError) -> InvalidRequest:
    """msgspec says which field, in a fixed wording; our tests hold it to that."""
    text = str(error)
    path_match, field_match = _PATH.search(text), _FIELD.search(text)
    path = path_match["path"] if path_match is not None else ""
    problem = _PATH.sub("", text)
    if field_match is None:
        return InvalidRequest(f"{path or 'the body'}: {problem}", field=path or None)
    field = f"{path}.{field_match['field']}" if path else field_match["field"]
    if field_match["problem"] == "missing required":
        return InvalidRequest(f"{field!r} is missing", field=field)
    return InvalidRequest(f"unknown field {field!r}: it is not known here and nothing is ignored", field=field)


def _malformed(data: bytes, error: Exception) -> InvalidRequest:
    if (number := _NOT_JSON_NUMBER.search(data)) is not None:
        field, value = (group.decode() for group in number.groups())
        return InvalidRequest(f"{field} is {value}, which is no JSON number; send a finite one", field=field)
    if isinstance(error, RecursionError):
        return InvalidRequest("the JSON body is nested too deeply")
    return InvalidRequest(f"the body is not valid JSON: {error}")
