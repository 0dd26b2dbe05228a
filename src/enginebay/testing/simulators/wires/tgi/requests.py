"""Bodies of TGI's routes. Unknown fields are ignored; a null where the field has none is refused, as by serde."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from enginebay.testing.simulators.exchange import UNREADABLE, HttpRequest
from enginebay.testing.simulators.wires.tgi.errors import Unreadable

Body = TypeVar("Body", bound=msgspec.Struct)
Unsigned = Annotated[int, msgspec.Meta(ge=0)]


class Parameters(msgspec.Struct):
    best_of: Unsigned | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: Unsigned | None = None
    return_full_text: bool | None = None
    stop: list[str] = msgspec.field(default_factory=list[str])
    truncate: Unsigned | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: Unsigned | None = None
    top_n_tokens: Unsigned | None = None
    grammar: dict[str, object] | None = None
    adapter_id: str | None = None


class GenerateBody(msgspec.Struct):
    inputs: str
    parameters: Parameters = msgspec.field(default_factory=lambda: Parameters(do_sample=True))


class CompatBody(GenerateBody):
    stream: bool = False


class CompletionBody(msgspec.Struct):
    prompt: str | list[str]
    model: str | None = None
    max_tokens: Unsigned | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool = False
    seed: Unsigned | None = None
    stop: list[str] | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    suffix: str | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class ChatBody(msgspec.Struct):
    messages: list[dict[str, object]]
    model: str | None = None
    max_tokens: Unsigned | None = None
    max_completion_tokens: Unsigned | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: Unsigned | None = None
    seed: Unsigned | None = None
    stop: list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions = msgspec.field(default_factory=StreamOptions)
    response_format: dict[str, object] | None = None
    tools: list[object] | None = None
    logit_bias: list[float] | None = None


def read(request: HttpRequest, form: type[Body], *, payload_limit: int) -> Body:
    """Raises Unreadable in the words of the web framework."""
    if len(request.body) > payload_limit:
        raise Unreadable(413, "Failed to buffer the request body: length limit exceeded")
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise Unreadable(415, "Expected request with `Content-Type: application/json`")
    try:
        return msgspec.json.decode(request.body, type=form)
    except msgspec.ValidationError as error:
        problem = f"Failed to deserialize the JSON body into the target type: {error}"
        raise Unreadable(422, problem) from error
    except UNREADABLE as error:
        raise Unreadable(400, f"Failed to parse the request body as JSON: {error}") from error
