"""A `GenerationRequest` as a body for SGLang.

/generate takes text and token ids and gives token ids back; it knows its fields and answers 400 to any other. A chat
goes to /v1/chat/completions, where the server applies the template.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from enginebay.errors import InvalidRequest, UnsupportedFeature
from enginebay.types import Capabilities, Chat, GenerationRequest, ResponseFormat, SamplingParams, Text
from enginebay.wire.openai_dialects import Dialect
from enginebay.wire.openai_encode import encode_request

JsonFields = dict[str, object]

MAX_REPETITION_PENALTY = 2.0
_DIALECT = Dialect(
    name="sglang",
    fields=frozenset(
        {
            "top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos", "min_tokens",
            "skip_special_tokens", "chat_template_kwargs", "continue_final_message",
        }
    ),
    capabilities=Capabilities(features=frozenset()),
)  # fmt: skip
_encode = msgspec.json.Encoder().encode


def encode_generate(request: GenerationRequest, *, backend: str) -> bytes:
    """The body of /generate."""
    prompt = request.prompt
    assert not isinstance(prompt, Chat)
    fields: JsonFields = {
        "sampling_params": _sampling_params(request.sampling) | _constraint(request.response_format, backend=backend),
        "stream": request.delivery == "stream",
    }
    if isinstance(prompt, Text):
        fields["text"] = prompt.text
    else:
        fields["input_ids"] = prompt.token_ids
    if request.logprobs is not None:
        fields["return_logprob"] = True
        fields["logprob_start_len"] = -1  # of the output only
        fields["top_logprobs_num"] = request.logprobs
        fields["return_text_in_logprobs"] = True
    return _encode(fields)


def encode_chat(request: GenerationRequest, *, model: str, backend: str) -> bytes:
    """The body of /v1/chat/completions. What is missing there is taken from the model's own generation config."""
    assert isinstance(request.prompt, Chat)
    sampling, format = _checked(request.sampling), request.response_format
    extra: JsonFields = {"no_stop_trim": sampling.include_stop_str_in_output}
    if request.delivery == "stream":
        # Usage in every event: one may hold several tokens, and none has their ids.
        extra["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    if format is not None and format.type in ("regex", "grammar", "choice"):
        extra |= _constraint(format, backend=backend)
        format = None
    plain = replace(
        request,
        prompt=_continued(request.prompt),
        sampling=replace(sampling, top_k=sampling.top_k or -1, include_stop_str_in_output=False),
        response_format=format,
    )
    return encode_request(plain, model=model, dialect=_DIALECT, backend=backend, extra_body=extra)


def _sampling_params(sampling: SamplingParams) -> JsonFields:
    _checked(sampling)
    fields: JsonFields = {
        "n": 1,
        "max_new_tokens": sampling.max_tokens,
        "min_new_tokens": sampling.min_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "stop": sampling.stop,
        "stop_token_ids": sampling.stop_token_ids,
        "no_stop_trim": sampling.include_stop_str_in_output,
        "ignore_eos": sampling.ignore_eos,
        "skip_special_tokens": sampling.skip_special_tokens,
    }
    if sampling.logit_bias:
        fields["logit_bias"] = sampling.logit_bias
    if sampling.seed is not None:
        fields["sampling_seed"] = sampling.seed
    return fields


def _checked(sampling: SamplingParams) -> SamplingParams:
    if sampling.repetition_penalty > MAX_REPETITION_PENALTY:
        problem = f"SGLang takes at most {MAX_REPETITION_PENALTY:g}, not {sampling.repetition_penalty:g}"
        raise InvalidRequest(problem, field="repetition_penalty")
    return sampling


def _continued(chat: Chat) -> Chat:
    """The server leaves the generation prompt out by itself where the last message is continued."""
    return replace(chat, add_generation_prompt=True) if chat.continue_final_message else chat


def _constraint(wanted: ResponseFormat | None, *, backend: str) -> JsonFields:
    if wanted is None or wanted.type == "text":
        return {}
    match wanted.type:
        case "json_object":
            return {"json_schema": '{"type":"object"}'}
        case "json_schema":
            return {"json_schema": _schema_text(wanted.schema)}
        case "regex":
            return {"regex": wanted.schema}
        case "grammar":
            return {"ebnf": wanted.schema}
        case _:
            raise UnsupportedFeature(field="response_format", backend=backend, detail=f"no {wanted.type} constraint")


def _schema_text(schema: object) -> str:
    """/generate wants the schema as a string. Clients of the OpenAI API wrap it: {name, schema, strict}."""
    if isinstance(schema, str):
        return schema
    wrapped = schema.get("schema") if isinstance(schema, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return _encode(schema if wrapped is None else wrapped).decode()
