"""`options:` of a vllm backend."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator

from enginebay.backends.http_engine.options import OWNED, SERVED, ServerOptions
from enginebay.wire.openai_encode import RESERVED_FIELDS

PositiveInt = Annotated[int, Field(ge=1)]
ENGINE_MAX_LOGPROBS = 20
"""The engine's own limit where `max_logprobs` does not raise it."""


class VllmOptions(ServerOptions):
    enforce_eager: bool = Field(
        False, description="Run without compiling the model: starts sooner, serves slower.", json_schema_extra=OWNED
    )
    max_logprobs: PositiveInt = Field(ENGINE_MAX_LOGPROBS, description="Most alternatives that a request may ask for.")
    max_queued_requests: PositiveInt | None = Field(
        None,
        description="Unfinished requests beyond which the engine answers 503; without it the queue has no end.",
        json_schema_extra=OWNED,
    )
    max_queued_tokens: PositiveInt | None = Field(
        None,
        description="Prompt tokens waiting for prefill beyond which the engine answers 503.",
        json_schema_extra=OWNED,
    )
    stream_interval: PositiveInt | None = Field(
        None, description="Tokens that one event of a stream carries.", json_schema_extra=OWNED
    )
    scheduling_policy: Literal["fcfs", "priority"] = Field(
        "fcfs", description="`priority` serves smaller priorities earlier; with `fcfs` a priority would be ignored."
    )
    tool_call_parser: str | None = Field(
        None,
        description="The engine's parser for this model's tool calls; without it tools are refused.",
        json_schema_extra=SERVED,
    )
    trust_request_chat_template: bool = Field(
        False,
        description="Take chat templates from requests: they are code that the engine runs.",
        json_schema_extra=SERVED,
    )
    dev_mode: bool = Field(
        False,
        description="Serve the engine's development endpoints too, which no key guards: all settings can be read back, "
        "the prefix cache be reset.",
        json_schema_extra=SERVED,
    )
    cpu_kv_cache_gib: PositiveInt | None = Field(
        None, description="On CPUs: size of the KV cache.", json_schema_extra=OWNED
    )
    omp_threads_bind: str | None = Field(
        None, description="On CPUs: cores that compute, such as `0-7`, or `auto`.", json_schema_extra=OWNED
    )
    return_token_ids: bool = Field(
        True, description="Ask for token ids: they count tokens where text cannot.", json_schema_extra=SERVED
    )
    extra_body: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Fields added to every generation, none that a request decides itself.",
        json_schema_extra=SERVED,
    )

    @field_validator("extra_body")
    @classmethod
    def _demand_unreserved(cls, fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if reserved := sorted(fields.keys() & (RESERVED_FIELDS | {"truncation_side"})):
            raise ValueError(f"{', '.join(reserved)}: a request decides this itself")
        return fields
