"""For every feature of a request: the smallest request that makes use of it. Declared, it is accepted; else refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from enginebay.backend import Backend, CountsTokens, ResetsPrefixCache
from enginebay.errors import DeadlineExceeded, RequestError, UnsupportedFeature
from enginebay.probes.asking import LONG_TEXT, again, ask, chat, greedy
from enginebay.probes.probe import Probe, ProbeFailed, ProbeSkipped, expect
from enginebay.types import (
    Feature,
    GenerationRequest,
    ImagePart,
    Message,
    ResponseFormat,
    Text,
    TextPart,
    TokenIds,
)

_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Erk"
    "Jggg=="
)
_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}},
    "required": ["answer"],
    "additionalProperties": False,
}

ADAPTER_OF_NO_ONE = "enginebay-probe-of-no-adapter"


def example_request(backend: Backend, feature: Feature) -> GenerationRequest:
    """Makes use of this feature, and of no other but the prompt's."""
    return _EXAMPLES[feature](greedy(backend, max_tokens=6))


_Change = Callable[[GenerationRequest], GenerationRequest]


def _with(**changes: object) -> _Change:
    return lambda request: again(request, **changes)


def _chatting(**changes: object) -> _Change:
    return lambda request: again(request, prompt=replace(chat("Say something about the sea."), **changes))


_EXAMPLES: Mapping[Feature, _Change] = {
    Feature.TEXT_PROMPT: _with(prompt=Text(LONG_TEXT)),
    Feature.TOKEN_PROMPT: _with(prompt=TokenIds((5, 6, 7, 8))),
    Feature.CHAT: _chatting(),
    Feature.IMAGES: _with(
        prompt=replace(chat(), messages=(Message("user", (TextPart("What is this?"), ImagePart(_PIXEL))),))
    ),
    Feature.TOOLS: _chatting(tools=(_TOOL,)),
    Feature.TEMPLATE_KWARGS: _chatting(template_kwargs={"enable_thinking": False}),
    Feature.CHAT_TEMPLATE: _chatting(template=_TEMPLATE),
    Feature.CONTINUE_FINAL_MESSAGE: _with(
        prompt=replace(
            chat("Say something about the sea.", "The sea"), continue_final_message=True, add_generation_prompt=False
        )
    ),
    Feature.TOP_K: _with(top_k=5, temperature=1.0),
    Feature.MIN_P: _with(min_p=0.1, temperature=1.0),
    Feature.REPETITION_PENALTY: _with(repetition_penalty=1.2),
    Feature.PRESENCE_PENALTY: _with(presence_penalty=0.5),
    Feature.FREQUENCY_PENALTY: _with(frequency_penalty=0.5),
    Feature.LOGIT_BIAS: _with(logit_bias={5: -10.0}),
    Feature.STOP: _with(stop=("\n\n\n",)),
    Feature.STOP_IN_OUTPUT: _with(stop=("\n\n\n",), include_stop_str_in_output=True),
    Feature.STOP_TOKEN_IDS: _with(stop_token_ids=(5,)),
    Feature.IGNORE_EOS: _with(ignore_eos=True),
    Feature.MIN_TOKENS: _with(min_tokens=2),
    Feature.SEED: _with(seed=7, temperature=1.0),
    Feature.KEEP_SPECIAL_TOKENS: _with(skip_special_tokens=False),
    Feature.LOGPROBS: _with(logprobs=0),
    Feature.PROMPT_LOGPROBS: _with(prompt_logprobs=0),
    Feature.TRUNCATE_PROMPT: _with(truncate_prompt_tokens=4),
    Feature.PRIORITY: _with(priority=1),
    Feature.DEADLINE: _with(deadline_at=1e15),
    Feature.CACHE_SALT: _with(cache_salt="probe"),
    Feature.ADAPTER: _with(adapter=ADAPTER_OF_NO_ONE),
    Feature.RESPONSE_FORMAT: _with(response_format=ResponseFormat(type="json_schema", schema=_SCHEMA), max_tokens=32),
    Feature.RESUME: _with(resume_token_ids=(5, 6)),
    Feature.PREFILL_ONLY: _with(max_tokens=0),
}


async def demand_refused(backend: Backend, feature: Feature) -> None:
    """Raises what the backend raises, which must be UnsupportedFeature."""
    if feature in (Feature.COUNT_TOKENS, Feature.RESET_PREFIX_CACHE):
        await _asked_by_method(backend, feature)
    elif feature is Feature.OUTPUT_TOKEN_IDS:
        answer = await ask(backend, greedy(backend, max_tokens=4))
        expect(answer.whole.token_ids is None, "token ids are given, though not declared")
        raise UnsupportedFeature(field=feature.value, backend=backend.info.name)
    else:
        await ask(backend, example_request(backend, feature))


async def _asked_by_method(backend: Backend, feature: Feature) -> None:
    if feature is Feature.COUNT_TOKENS and isinstance(backend, CountsTokens):
        await backend.count_tokens(Text("one two three"))
    elif feature is Feature.RESET_PREFIX_CACHE and isinstance(backend, ResetsPrefixCache):
        await backend.reset_prefix_cache()
    else:
        raise UnsupportedFeature(field=feature.value, backend=backend.info.name)


async def _accepted(backend: Backend, *, feature: Feature) -> str:
    answer = await ask(backend, example_request(backend, feature))
    return f"{answer.usage.num_output_tokens} tokens"


async def _adapter_is_looked_up(backend: Backend) -> None:
    """Which adapters there are is not told; one that is not there is the request's fault."""
    try:
        await ask(backend, example_request(backend, Feature.ADAPTER))
    except UnsupportedFeature:
        raise
    except RequestError:
        return
    raise ProbeFailed(f"the adapter {ADAPTER_OF_NO_ONE!r}, which is not there, was accepted")


async def _image_is_taken(backend: Backend) -> str:
    try:
        return await _accepted(backend, feature=Feature.IMAGES)
    except UnsupportedFeature:
        raise
    except RequestError as error:
        raise ProbeSkipped(f"the engine takes images, this model may not: {error}") from error


async def _past_deadline_is_told(backend: Backend) -> None:
    try:
        await ask(backend, again(greedy(backend), deadline_at=1e-9))
    except DeadlineExceeded:
        return
    raise ProbeFailed("a request whose deadline had passed was answered")


def _feature_probe(feature: Feature) -> Probe:
    special = {Feature.ADAPTER: _adapter_is_looked_up, Feature.IMAGES: _image_is_taken}
    return Probe(
        name=f"{feature.value} is accepted or refused by name",
        description=f"A request that makes use of {feature.value!r} is answered where that is declared, else refused.",
        run=special.get(feature) or partial(_accepted, feature=feature),
        feature=feature,
    )


FEATURE_PROBES = (
    *(_feature_probe(feature) for feature in _EXAMPLES),
    Probe(
        name="a deadline that has passed is told",
        description="deadline_at in the past raises DeadlineExceeded.",
        run=_past_deadline_is_told,
        feature=Feature.DEADLINE,
    ),
)
