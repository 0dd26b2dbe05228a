"""Renders a conversation with the model's Jinja template, as transformers does, in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Environment, Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from enginebay.backends.reference.template_messages import template_messages
from enginebay.errors import InvalidRequest, UnsupportedFeature
from enginebay.types import Chat

_CONTINUES_HERE = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks the place to cut at. Its blank tells whether the template trims the message."""


class ChatTemplate:
    def __init__(self, source: str | None, *, special_tokens: Mapping[str, str]) -> None:
        """source: None for a model without a template of its own; special_tokens: `bos_token` and the like."""
        self._source = source
        self._special_tokens = dict(special_tokens)

    def render(self, chat: Chat) -> str:
        """Raises InvalidRequest for whatever the template objects to, UnsupportedFeature for a name that it drops."""
        source = chat.template or self._source
        if source is None:
            raise InvalidRequest(
                "the model has no chat template: send a plain prompt, or a chat_template", field="messages"
            )
        messages = template_messages(chat.messages)
        if chat.continue_final_message:
            _mark_end(messages, chat)
        text = self._rendered(source, chat, messages)
        if any(message.name is not None for message in chat.messages):
            self._demand_names_shown(source, chat, messages)
        return _cut_at_mark(text) if chat.continue_final_message else text

    def _demand_names_shown(self, source: str, chat: Chat, messages: list[dict[str, Any]]) -> None:
        """Most templates know no names: what the client wrote there would vanish without a word."""
        marks = {index: f"enginebayname{index}x" for index, message in enumerate(messages) if "name" in message}
        marked = [
            message | {"name": marks[index]} if index in marks else message for index, message in enumerate(messages)
        ]
        shown = self._rendered(source, chat, marked).lower()
        for index, mark in marks.items():
            if mark not in shown:
                raise UnsupportedFeature(
                    field=f"messages[{index}].name", backend="reference", detail="the chat template leaves it out"
                )

    def _rendered(self, source: str, chat: Chat, messages: list[dict[str, Any]]) -> str:
        field = "messages" if chat.template is None else "chat_template"
        try:
            return _compiled(source).render(
                **{
                    **self._special_tokens,
                    "documents": None,
                    **chat.template_kwargs,
                    "messages": messages,
                    "tools": [dict(tool) for tool in chat.tools] or None,
                    "add_generation_prompt": chat.add_generation_prompt,
                }
            )
        except TemplateError as error:
            raise InvalidRequest(f"the chat template refuses these messages: {error}", field=field) from error
        except (TypeError, ValueError, KeyError, ArithmeticError, RecursionError, AttributeError) as error:
            raise InvalidRequest(f"the chat template fails on these messages: {error}", field=field) from error


def _mark_end(messages: list[dict[str, Any]], chat: Chat) -> None:
    if chat.add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other: a message is either continued or "
            "a new one begun",
            field="continue_final_message",
        )
    if not messages[-1]["content"]:
        raise InvalidRequest("the final message has no text to continue", field="continue_final_message")
    messages[-1]["content"] += _CONTINUES_HERE


def _cut_at_mark(text: str) -> str:
    place = text.rfind(_CONTINUES_HERE.strip())
    if place < 0:
        raise InvalidRequest(
            "the chat template leaves out the text of the final message, so it cannot be continued",
            field="continue_final_message",
        )
    before = text[:place]
    return before if text.startswith(_CONTINUES_HERE, place) else before.rstrip()


@lru_cache(maxsize=32)
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _TemplateDict()
    environment.globals["namespace"] = _TemplateNamespace
    return environment.from_string(source)


class _GenerationBlock(Extension):
    """`{% generation %}` marks what an assistant wrote, for training; here its body is just rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own protocol

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML; templates expect plain JSON. The signature is the one templates call."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # the date that the template tells the model, in local time


class _TemplateDict:
    """`dict(...)` without the attributes of the class, which lead out of the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class _TemplateNamespace(Namespace):
    """A namespace that refuses names with a leading underscore, for the same reason."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # type: ignore[misc] # `namespace(self=...)` is allowed
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _demand_public(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _demand_public(name)
        Namespace.__setitem__(self, name, value)


def _demand_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a template may not set {name!r}: names with a leading underscore are closed to it")
