"""A `GenerationRequest` as a body for llama-server.

/completion takes text and token ids, and gives token ids back. A chat goes to /v1/chat/completions, which applies the
template and parses tool calls and reasoning; to render it first (/apply-template) would cost a request before each
request. All sampling fields are sent on both: the server's defaults are other than everybody's, also on OpenAI routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from enginebay.errors import UnsupportedFeature
from enginebay.types import Capabilities, Chat, GenerationRequest, SamplingParams, Text
from enginebay.wire.openai_dialects import Dialect
from enginebay.wire.openai_encode import encode_request
from enginebay_llama_cpp.response_format import constraint, with_named_schema
from enginebay_llama_cpp.settings import SEED_MODULUS

JsonFields = dict[str, object]

SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")
"""In the order of other engines. The server's own has the temperature last, where top_p means something else."""
_SWITCHED_OFF: Mapping[str, object] = {
    "typical_p": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "dry_multiplier": 0.0,
    "dynatemp_range": 0.0,
    "mirostat": 0,
}
_DIALECT = Dialect(
    name="llama_cpp",
    fields=frozenset(
        {
            "top_k", "min_p", "ignore_eos",
            "chat_template_kwargs", "add_generation_prompt", "continue_final_message",
        }
    ),
    capabilities=Capabilities(features=frozenset()),
)  # fmt: skip
_TEMPLATE_FIELDS = frozenset(
    {"messages", "tools", "tool_choice", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"}
)
_encode = msgspec.json.Encoder().encode


def encode_completion(request: GenerationRequest, *, context_length: int, backend: str) -> bytes:
    """The body of /completion. context_length: of one slot."""
    prompt, sampling = request.prompt, request.sampling
    assert not isinstance(prompt, Chat)
    fields: JsonFields = {
        "prompt": prompt.text if isinstance(prompt, Text) else prompt.token_ids,
        "stream": request.delivery == "stream",
        "return_tokens": True,
        "n_predict": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": sampling.stop,
        "ignore_eos": sampling.ignore_eos,
        "n_probs": 0 if request.logprobs is None else max(1, request.logprobs),
        **_own_sampling(sampling, context_length),
    }
    if sampling.logit_bias:
        fields["logit_bias"] = tuple(sampling.logit_bias.items())
    fields |= constraint(request.response_format, backend=backend)
    return _encode(fields)


def encode_chat(request: GenerationRequest, *, model: str, context_length: int, backend: str) -> bytes:
    """The body of /v1/chat/completions."""
    assert isinstance(request.prompt, Chat)
    chat, sampling = _continued(request.prompt, backend=backend), request.sampling
    format = request.response_format
    is_grammar = format is not None and format.type in ("grammar", "regex", "choice")
    own = _own_sampling(sampling, context_length) | {"timings_per_token": request.delivery == "stream"}
    plain = replace(
        request,
        prompt=chat,
        # With no alternatives at all the server gives no log-probabilities: one is asked for, and dropped again.
        logprobs=None if request.logprobs is None else max(1, request.logprobs),
        sampling=replace(sampling, repetition_penalty=1.0, seed=None),
        response_format=None if is_grammar else with_named_schema(format),
    )
    extra = own | (constraint(format, backend=backend) if is_grammar else {})
    return encode_request(plain, model=model, dialect=_DIALECT, backend=backend, extra_body=extra)


def template_fields(chat: Chat, *, backend: str) -> JsonFields:
    """The part of a chat that makes its prompt, for /apply-template."""
    request = GenerationRequest(request_id="", prompt=chat, sampling=SamplingParams(max_tokens=1))
    body = encode_chat(request, model="", context_length=1, backend=backend)
    fields = msgspec.json.decode(body, type=dict[str, object])
    return {name: value for name, value in fields.items() if name in _TEMPLATE_FIELDS}


def _own_sampling(sampling: SamplingParams, context_length: int) -> JsonFields:
    """Under the names that only this server has."""
    is_penalised = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1, 0, 0)
    return {
        "repeat_penalty": sampling.repetition_penalty,
        # Everything so far, as with other engines, not the last 64 tokens.
        "repeat_last_n": context_length if is_penalised else 0,
        "seed": -1 if sampling.seed is None else sampling.seed % SEED_MODULUS,
        "samplers": SAMPLERS,
        **_SWITCHED_OFF,
    }


def _continued(chat: Chat, *, backend: str) -> Chat:
    """The server takes a last message of the assistant for one to be continued, whether that is asked for or not."""
    if chat.continue_final_message:
        return replace(chat, add_generation_prompt=False)
    if chat.messages and chat.messages[-1].role == "assistant":
        detail = "llama-server continues a last message of the assistant's: ask for it by continue_final_message"
        raise UnsupportedFeature(field="messages", backend=backend, detail=detail)
    return chat
