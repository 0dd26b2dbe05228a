"""A `GenerationRequest` as the JSON body of TGI's native routes, or of its chat route.

TGI takes no `null` for most fields and refuses the neutral values of some (`top_p` 1, `top_k` 0, `temperature` 0):
what is neutral is left out, everything else is always sent.
"""

from __future__ import annotations

import msgspec

from enginebay.errors import UnsupportedFeature
from enginebay.types import Chat, GenerationRequest, Message, SamplingParams, Text, TextPart
from enginebay_tgi.grammar import grammar_of

JsonFields = dict[str, object]
GENERATE, GENERATE_STREAM, CHAT = "/generate", "/generate_stream", "/v1/chat/completions"
BASE_MODEL = "tgi"
"""Any other name in `model` is taken for a LoRA adapter, and one that is unknown for the base model all the same."""
_SEED_RANGE = 2**64
_encode = msgspec.json.Encoder().encode


def path_of(request: GenerationRequest) -> str:
    """/generate alone has log-probabilities of the prompt; only a stream tells the length of the prompt otherwise."""
    if isinstance(request.prompt, Chat):
        return CHAT
    return GENERATE if request.prompt_logprobs is not None else GENERATE_STREAM


def encode_request(request: GenerationRequest, *, backend: str, adds_special_tokens: bool) -> bytes:
    """Raises UnsupportedFeature, naming the field.

    adds_special_tokens: whether the model's tokenizer has any to add, which the native routes always do and the chat
    route never does.
    """
    if isinstance(request.prompt, Chat):
        _demand_plain_chat(request, backend=backend, adds_special_tokens=adds_special_tokens)
        return _encode(_chat_fields(request, request.prompt, backend=backend))
    assert isinstance(request.prompt, Text), "token ids are refused by the capabilities"
    if adds_special_tokens and not request.prompt.add_special_tokens:
        raise _unsupported("add_special_tokens", backend, "TGI always adds the tokenizer's special tokens to a text")
    if request.prompt_logprobs:
        raise _unsupported("prompt_logprobs", backend, "TGI has no alternatives for prompt tokens: ask for 0")
    return _encode({"inputs": request.prompt.text, "parameters": _native_parameters(request, backend=backend)})


def encode_chat_to_tokenize(chat: Chat, *, backend: str, adds_special_tokens: bool) -> bytes:
    """The body of /chat_tokenize."""
    _demand_plain_messages(chat, backend=backend, adds_special_tokens=adds_special_tokens)
    return _encode({"model": BASE_MODEL, "messages": [_message(message) for message in chat.messages]})


def _native_parameters(request: GenerationRequest, *, backend: str) -> JsonFields:
    sampling = request.sampling
    fields: JsonFields = {
        "max_new_tokens": sampling.max_tokens,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "details": True,
        "return_full_text": False,
        **_native_choice(sampling),
        **_common(sampling),
    }
    if request.logprobs:
        fields["top_n_tokens"] = request.logprobs
    if request.prompt_logprobs is not None:
        fields["decoder_input_details"] = True
    if request.truncate_prompt_tokens is not None:
        fields["truncate"] = request.truncate_prompt_tokens
    if (grammar := grammar_of(request.response_format, backend=backend)) is not None:
        fields["grammar"] = grammar
    return fields


def _native_choice(sampling: SamplingParams) -> JsonFields:
    """How a token is chosen. Greedy has no temperature, top_k and top_p: any of them would switch sampling on, and
    none of them changes which token is the most likely one."""
    if sampling.temperature == 0:
        return {"do_sample": False}
    fields: JsonFields = {"do_sample": True, "temperature": sampling.temperature}
    if sampling.top_k > 0:
        fields["top_k"] = sampling.top_k
    if sampling.top_p < 1.0:
        fields["top_p"] = sampling.top_p
    return fields


def _common(sampling: SamplingParams) -> JsonFields:
    fields: JsonFields = {}
    if sampling.stop:
        fields["stop"] = sampling.stop
    if sampling.seed is not None:
        fields["seed"] = sampling.seed % _SEED_RANGE  # TGI's are unsigned: a negative one is its two's complement
    return fields


# ---------------------------------------------------------------- chat


def _chat_fields(request: GenerationRequest, chat: Chat, *, backend: str) -> JsonFields:
    sampling = request.sampling
    fields: JsonFields = {
        "model": BASE_MODEL,
        "messages": [_message(message) for message in chat.messages],
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "frequency_penalty": sampling.frequency_penalty,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_common(sampling),
    }
    if sampling.top_p < 1.0 and sampling.temperature > 0:
        fields["top_p"] = sampling.top_p
    if request.logprobs is not None:
        fields["logprobs"] = True
        if request.logprobs:
            fields["top_logprobs"] = request.logprobs
    if (grammar := grammar_of(request.response_format, backend=backend)) is not None:
        fields["response_format"] = grammar
    return fields


def _demand_plain_chat(request: GenerationRequest, *, backend: str, adds_special_tokens: bool) -> None:
    assert isinstance(request.prompt, Chat)
    _demand_plain_messages(request.prompt, backend=backend, adds_special_tokens=adds_special_tokens)
    asked = {
        "top_k": request.sampling.top_k > 0 and request.sampling.temperature > 0,
        "repetition_penalty": request.sampling.repetition_penalty != 1.0,
        "truncate_prompt_tokens": request.truncate_prompt_tokens is not None,
        "prompt_logprobs": request.prompt_logprobs is not None,
    }
    for field, is_asked in asked.items():
        if is_asked:
            raise _unsupported(field, backend, "TGI's chat route drops it; a text prompt may have it")


def _demand_plain_messages(chat: Chat, *, backend: str, adds_special_tokens: bool) -> None:
    if not chat.add_generation_prompt:
        raise _unsupported("add_generation_prompt", backend, "TGI always begins the answer")
    if chat.add_special_tokens and adds_special_tokens:
        raise _unsupported("add_special_tokens", backend, "TGI's chat route leaves them to the template")
    if chat.messages[-1].role == "assistant":
        raise _unsupported(
            "messages", backend, "the last message is the assistant's, and TGI's releases treat it apart"
        )
    if chat.tool_choice not in (None, "none", "auto"):
        raise _unsupported("tool_choice", backend)


def _message(message: Message) -> JsonFields:
    content = message.content
    if isinstance(content, tuple):
        content = [{"type": "text", "text": part.text} for part in content if isinstance(part, TextPart)]
    fields: JsonFields = {"role": message.role, "content": content if content is not None else ""}
    if message.name is not None:
        fields["name"] = message.name
    return fields


def _unsupported(field: str, backend: str, detail: str = "") -> UnsupportedFeature:
    return UnsupportedFeature(field=field, backend=backend, detail=detail)
