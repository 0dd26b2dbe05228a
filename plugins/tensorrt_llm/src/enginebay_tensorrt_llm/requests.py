"""A request as the JSON that trtllm-serve takes. One field that it does not know fails the whole request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from enginebay.errors import UnsupportedFeature
from enginebay.types import Capabilities, Chat, GenerationRequest, ResponseFormat
from enginebay.wire.openai_dialects import Dialect
from enginebay.wire.openai_encode import Form, encode_request, is_streamed

_SAMPLING_FIELDS = frozenset(
    {
        "add_special_tokens", "ignore_eos", "include_stop_str_in_output", "min_p", "min_tokens", "repetition_penalty",
        "skip_special_tokens", "stop_token_ids", "top_k", "truncate_prompt_tokens",
    }
)  # fmt: skip
_NO_CAPABILITIES = Capabilities(features=frozenset())  # the backend's own are asked, not those of a dialect
_DIALECTS: Mapping[Form, Dialect] = {
    "completions": Dialect(name="tensorrt_llm", fields=_SAMPLING_FIELDS, capabilities=_NO_CAPABILITIES),
    "chat": Dialect(
        name="tensorrt_llm",
        fields=_SAMPLING_FIELDS | {"chat_template", "chat_template_kwargs"},
        capabilities=_NO_CAPABILITIES,
    ),
}
# Both are said: `{}` alone would ask for usage here. Usage in every event tells how many tokens it carries.
_STREAM_OPTIONS = {"include_usage": True, "continuous_usage_stats": True}
_MAX_SEED = 2**64


def encode(request: GenerationRequest, *, model: str, backend: str, drawn_seed: int, token_ids_only: bool) -> bytes:
    """drawn_seed: for a request without one, which the engine would give the same seed every time."""
    form: Form = "chat" if isinstance(request.prompt, Chat) else "completions"
    seed = request.sampling.seed
    own: dict[str, object] = {"seed": (drawn_seed if seed is None else seed) % _MAX_SEED}
    if is_streamed(request):
        own["stream_options"] = _STREAM_OPTIONS
    if token_ids_only:
        own["detokenize"] = False
    wanted = request.response_format
    if wanted is not None:
        if wanted.type != "text":
            own["response_format"] = _response_format(wanted, backend=backend)
        request = replace(request, response_format=None)
    return encode_request(request, model=model, dialect=_DIALECTS[form], backend=backend, extra_body=own)


def _response_format(wanted: ResponseFormat, *, backend: str) -> dict[str, object]:
    match wanted.type:
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            # OpenAI wraps the schema with its name; here it is the schema alone.
            schema = wanted.schema.get("schema", wanted.schema) if isinstance(wanted.schema, Mapping) else wanted.schema
            return {"type": "json", "schema": schema}
        case "regex":
            return {"type": "regex", "regex": wanted.schema}
        case "grammar":
            return {"type": "ebnf", "ebnf": wanted.schema}
        case _:
            detail = f"there is no type {wanted.type!r}"
            raise UnsupportedFeature(field="response_format", backend=backend, detail=detail)
