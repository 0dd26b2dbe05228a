"""Whether every field of a request has the type that it declares.

A request is plain data that nobody has checked before: from a script it may hold `seed=1.5` or a numpy integer, which
an engine would meet deep inside, where it costs more than this one request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter, contains
from typing import cast

from enginebay.errors import InvalidRequest
from enginebay.types import Chat, GenerationRequest, Message, SamplingParams, Text, TokenIds

_SAMPLING_INTS = ("max_tokens", "top_k", "min_tokens")
_SAMPLING_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_SAMPLING_SWITCHES = ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens")
_OPTIONAL_INTS = ("logprobs", "prompt_logprobs", "truncate_prompt_tokens")
_OPTIONAL_TEXTS = ("session_key", "cache_salt", "adapter")


_kinds_of_sampling = attrgetter(*_SAMPLING_INTS, "seed", *_SAMPLING_FLOATS, *_SAMPLING_SWITCHES)
_kinds_of_request = attrgetter("request_id", "priority", *_OPTIONAL_INTS, "deadline_at", *_OPTIONAL_TEXTS)
_NONE = type(None)
_KINDS_OF_SAMPLING = (
    *({int} for _ in _SAMPLING_INTS), {int, _NONE}, *({float, int} for _ in _SAMPLING_FLOATS),
    *({bool} for _ in _SAMPLING_SWITCHES),
)  # fmt: skip
_KINDS_OF_REQUEST = (
    {str}, {int}, *({int, _NONE} for _ in _OPTIONAL_INTS), {float, int, _NONE}, *({str, _NONE} for _ in _OPTIONAL_TEXTS)
)  # fmt: skip


def check_types(request: GenerationRequest) -> None:
    """Raise InvalidRequest naming the field. An int is accepted for a float; a bool is no number."""
    if not isinstance(request.sampling, SamplingParams):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _wrong("sampling", request.sampling, "a SamplingParams")
    _check_sampling(request.sampling)
    check_prompt_types(request.prompt)
    if not _are_of(_kinds_of_request(request), _KINDS_OF_REQUEST):
        _demand(request, ("request_id",), "a str", str)
        _demand(request, ("priority",), "an int", int)
        _demand(request, _OPTIONAL_INTS, "an int or None", int, _NONE)
        _demand(request, ("deadline_at",), "a float or None", float, int, _NONE)
        _demand(request, _OPTIONAL_TEXTS, "a str or None", str, _NONE)
    if request.delivery not in ("stream", "final"):
        raise InvalidRequest(f"delivery is {request.delivery!r}, expected 'stream' or 'final'", field="delivery")
    _demand_token_ids("resume_token_ids", request.resume_token_ids)


def _check_sampling(sampling: SamplingParams) -> None:
    if not _are_of(_kinds_of_sampling(sampling), _KINDS_OF_SAMPLING):
        _demand(sampling, _SAMPLING_INTS, "an int", int)
        _demand(sampling, ("seed",), "an int or None", int, _NONE)
        _demand(sampling, _SAMPLING_FLOATS, "a float", float, int)
        _demand(sampling, _SAMPLING_SWITCHES, "True or False", bool)
    _check_stop(sampling.stop)
    _demand_token_ids("stop_token_ids", sampling.stop_token_ids)
    bias: object = sampling.logit_bias
    if not isinstance(bias, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _wrong("logit_bias", bias, "a mapping of token ids to numbers")
    for token_id, value in cast(Mapping[object, object], bias).items():
        if type(token_id) is not int or type(value) not in (float, int):
            raise InvalidRequest(
                f"logit_bias maps ints to floats, not {_kind(token_id)} to {_kind(value)}", field="logit_bias"
            )


def _check_stop(stop: object) -> None:
    if isinstance(stop, str):
        raise InvalidRequest(f"stop is a tuple of strings: write stop=({stop!r},)", field="stop")
    if not isinstance(stop, tuple | list):
        raise _wrong("stop", stop, "a tuple of strings")
    for item in cast(Iterable[object], stop):
        if not isinstance(item, str):
            raise InvalidRequest(f"stop is a tuple of strings, and one of them is a {_kind(item)}", field="stop")


def check_prompt_types(prompt: object) -> None:
    if isinstance(prompt, TokenIds):
        _demand_token_ids("prompt", prompt.token_ids)
    elif isinstance(prompt, Text):
        if not isinstance(prompt.text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _wrong("prompt", prompt.text, "a Text of a str")
    elif not isinstance(prompt, Chat):
        raise _wrong("prompt", prompt, "a Text, TokenIds or Chat")
    elif not all(isinstance(message, Message) for message in prompt.messages):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest("messages is a tuple of Message", field="messages")


def _are_of(values: tuple[object, ...], kinds: tuple[set[type], ...]) -> bool:
    """The common case at once; what is strange is then looked for field by field."""
    return all(map(contains, kinds, map(type, values)))


def _demand(values: object, fields: tuple[str, ...], expected: str, *types: type) -> None:
    for field in fields:
        value = getattr(values, field)
        # the very type: True is an int to isinstance, and a numpy float is a float that no encoder takes
        if type(value) not in types and not (str in types and isinstance(value, str)):
            raise _wrong(field, value, expected)


def _demand_token_ids(field: str, token_ids: object) -> None:
    if not isinstance(token_ids, tuple | list):
        raise _wrong(field, token_ids, "a tuple of token ids")
    strange = set(map(type, cast(Iterable[object], token_ids))) - {int}
    if strange:
        raise InvalidRequest(f"{field} is a tuple of ints, and one of them is a {_name(strange.pop())}", field=field)


def _wrong(field: str, value: object, expected: str) -> InvalidRequest:
    is_short = type(value) in (bool, float) or (isinstance(value, str) and len(value) <= 40)
    found = f"{value!r} ({_kind(value)})" if is_short else _kind(value)
    return InvalidRequest(f"{field} must be {expected}, not {found}", field=field)


def _kind(value: object) -> str:
    return _name(type(value))


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
