"""Probes of chat templates: what a request brings along is what the prompt is made of."""

from __future__ import annotations

from dataclasses import replace

from enginebay.backend import Backend
from enginebay.probes.asking import ask, chat, greedy
from enginebay.probes.probe import Probe, ProbeSkipped, expect
from enginebay.types import Chat, Feature

_CONVERSATION = chat("Say something about the sea and the ships on it.")
_ONCE = "{{ messages[0].content }}"
_WITH_MORE = _ONCE + " {{ more }}"
_MORE = "and about the wind, the waves, the storms, the harbours and the people who live there"


async def _num_prompt_tokens(backend: Backend, conversation: Chat) -> int:
    return (await ask(backend, greedy(backend, prompt=conversation, max_tokens=1))).usage.num_prompt_tokens


def _demand_real(backend: Backend) -> None:
    if backend.info.simulated:
        raise ProbeSkipped("a simulator renders no template")


async def _template_is_rendered(backend: Backend) -> str:
    _demand_real(backend)
    once = await _num_prompt_tokens(backend, replace(_CONVERSATION, template=_ONCE))
    eight = await _num_prompt_tokens(backend, replace(_CONVERSATION, template=" ".join([_ONCE] * 8)))
    expect(eight > 4 * once, f"a template with the message once gives {once} prompt tokens, eight times {eight}")
    return f"{once} and {eight} prompt tokens"


async def _template_arguments_are_used(backend: Backend) -> str:
    """The model's own template may know none of ours: only one that the request brings says more."""
    _demand_real(backend)
    if Feature.CHAT_TEMPLATE not in backend.info.capabilities:
        return await _a_common_argument_is_used(backend)
    little, much = [
        await _num_prompt_tokens(backend, replace(_CONVERSATION, template=_WITH_MORE, template_kwargs={"more": more}))
        for more in ("x", _MORE)
    ]
    expect(much > little + 5, f"an argument of one letter gives {little} prompt tokens, one of sixteen words {much}")
    return f"{little} and {much} prompt tokens"


async def _a_common_argument_is_used(backend: Backend) -> str:
    off, on = [
        await _num_prompt_tokens(backend, replace(_CONVERSATION, template_kwargs={"enable_thinking": is_on}))
        for is_on in (False, True)
    ]
    if off == on:
        raise ProbeSkipped("the model's template may not know enable_thinking, and none may be brought along")
    return f"{off} prompt tokens without thinking, {on} with it"


TEMPLATE_PROBES = (
    Probe(
        name="a template of the request's own is rendered",
        description="chat_template: one that has the message eight times gives a prompt of more than four.",
        run=_template_is_rendered,
        feature=Feature.CHAT_TEMPLATE,
    ),
    Probe(
        name="template arguments are used",
        description="chat_template_kwargs: a longer argument gives a longer prompt.",
        run=_template_arguments_are_used,
        feature=Feature.TEMPLATE_KWARGS,
    ),
)
