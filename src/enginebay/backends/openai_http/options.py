"""`options:` of an openai_http backend."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, field_validator

from enginebay.backends.http_engine.options import HttpOptions
from enginebay.wire.openai_encode import RESERVED_FIELDS


class OpenAIHttpOptions(HttpOptions):
    dialect: Literal["auto", "enginebay", "vllm", "openai"] = Field(
        "auto", description="Fields beyond the OpenAI API that the server takes; `auto` asks its model list."
    )
    served_model_name: str | None = Field(None, description="The name that the server gives its model.")
    health_path: str = Field("/health", pattern="^/", description="Answers 200 when the server is ready.")
    return_token_ids: bool = Field(True, description="Ask for token ids where they can be had: they count tokens.")
    extra_body: dict[str, JsonValue] = Field(
        default_factory=dict, description="Fields added to every generation, none that a request decides itself."
    )

    @field_validator("extra_body")
    @classmethod
    def _demand_unreserved(cls, fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if reserved := sorted(fields.keys() & RESERVED_FIELDS):
            raise ValueError(f"{', '.join(reserved)}: a request decides this itself")
        return fields
