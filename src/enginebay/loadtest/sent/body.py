"""What the body of a request asks for, read without the help of the adapter that wrote it.

An adapter that drops a field, or sends another value, is to be found out: so this shares no code with any of them. The
names are those of the APIs of the engines that EngineBay speaks to; a name that is not here stays among `others`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import msgspec

from enginebay.loadtest.sent.sent import PromptForm
from enginebay.types import Chat, Prompt, Text, TextPart, TokenIds

JsonFields = dict[str, object]

SAMPLING_NAMES: Mapping[str, str] = {
    "max_tokens": "max_tokens", "max_completion_tokens": "max_tokens", "max_new_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "repetition_penalty": "repetition_penalty", "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty", "logit_bias": "logit_bias",
    "stop": "stop", "stop_words": "stop",
    "include_stop_str_in_output": "include_stop_str_in_output", "no_stop_trim": "include_stop_str_in_output",
    "stop_token_ids": "stop_token_ids", "ignore_eos": "ignore_eos",
    "min_tokens": "min_tokens", "min_new_tokens": "min_tokens",
    "seed": "seed", "sampling_seed": "seed",
    "skip_special_tokens": "skip_special_tokens",
}  # fmt: skip
"""Name in a body -> field of `SamplingParams`."""
CONTAINERS = ("parameters", "sampling_params")
"""Objects inside a body that hold the sampling fields of some engines."""
PROMPT_NAMES = ("prompt", "messages", "inputs", "text", "input_ids", "text_input")
GREEDY_NAME = "do_sample"
"""Of engines that take no temperature of 0: false is greedy."""
IDENTITY_NAMES = frozenset({"model", "request_id", "rid", "user"})
"""Who is asked, and by whom: no part of the load."""
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    model: str | None
    prompt_form: PromptForm
    prompt_sha256: str
    sampling: JsonFields
    others: JsonFields


def read_body(body: bytes) -> Body | None:
    """None for what is no JSON object."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    model = fields.get("model")
    prompt = next((fields[name] for name in PROMPT_NAMES if name in fields), None)
    form, digest = _prompt(prompt)
    flat = dict(_flat(fields))
    read_names = {*SAMPLING_NAMES, *PROMPT_NAMES, *IDENTITY_NAMES, GREEDY_NAME}
    return Body(
        model=model if isinstance(model, str) else None,
        prompt_form=form,
        prompt_sha256=digest,
        sampling=_sampling(flat),
        others={name: value for name, value in flat.items() if name not in read_names},
    )


def without_identity(body: bytes, *, model: str | None, request_id: bytes) -> bytes:
    """The bytes of the load: the same for two servers that call one model by different names."""
    if model is not None:
        name = msgspec.json.encode(model)
        # Inside a text the quotes would be escaped: this finds the field and nothing else.
        body = body.replace(b'"model":' + name, b'"model":""', 1)
    return body.replace(b'"' + request_id + b'"', b'""')


def planned_prompt(prompt: Prompt) -> tuple[PromptForm, str]:
    """The form and the digest that a body has which carries this prompt as it is."""
    match prompt:
        case TokenIds(token_ids):
            return _prompt(list(token_ids))
        case Text(text):
            return _prompt(text)
        case Chat(messages):
            plain = [{"role": message.role, "content": _text_of(message.content)} for message in messages]
            return _prompt(plain)


# ---------------------------------------------------------------- prompt


def _prompt(prompt: object) -> tuple[PromptForm, str]:
    match prompt:
        case str():
            return "text", _digest(prompt)
        case [int(), *_]:
            return "token_ids", _digest(prompt)
        case [{"role": _}, *_]:
            return "messages", _digest([_plain_message(message) for message in cast("list[JsonFields]", prompt)])
        case _:
            return "unknown", _digest(prompt)


def _plain_message(message: JsonFields) -> JsonFields:
    """A content of text parts is the text that they make; names and calls stay as they are."""
    content = message.get("content")
    if isinstance(content, list):
        parts = cast("list[JsonFields]", content)
        if all(part.get("type") == "text" for part in parts):
            content = "".join(str(part.get("text", "")) for part in parts)
    return {**message, "content": content}


def _text_of(content: object) -> object:
    if isinstance(content, tuple):
        parts = cast("tuple[object, ...]", content)
        return "".join(part.text for part in parts if isinstance(part, TextPart))
    return content


def _digest(value: object) -> str:
    return hashlib.sha256(_encode(value)).hexdigest()


# ---------------------------------------------------------------- sampling


def _flat(fields: JsonFields) -> Iterator[tuple[str, object]]:
    for name, value in fields.items():
        if name in CONTAINERS and isinstance(value, dict):
            yield from cast("JsonFields", value).items()
        else:
            yield name, value


def _sampling(flat: JsonFields) -> JsonFields:
    found = {
        SAMPLING_NAMES[name]: _in_our_values(SAMPLING_NAMES[name], value)
        for name, value in flat.items()
        if name in SAMPLING_NAMES and value is not None
    }
    if found.get("seed") == -1:  # drawn by the engine
        del found["seed"]
    if flat.get(GREEDY_NAME) is False or found.get("top_k") == 1:
        found["temperature"] = 0.0
        found.pop("top_k", None)
    return found


def _in_our_values(field: str, value: object) -> object:
    read = _VALUES.get(field)
    return value if read is None else read(value)


def _off_below_one(value: object) -> object:
    return 0 if isinstance(value, int) and value < 1 else value


def _bias(value: object) -> object:
    pairs = (
        cast("Mapping[str, float]", value).items() if isinstance(value, Mapping) else cast("list[list[float]]", value)
    )
    return {str(key): bias for key, bias in pairs}


_VALUES: Mapping[str, Callable[[object], object]] = {"top_k": _off_below_one, "logit_bias": _bias}
