"""`options:` of an openai_http backend."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, field_validator

from enginebay.wire.http_client import check_header
from enginebay.wire.openai_encode import RESERVED_FIELDS

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class OpenAIHttpOptions(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    api_key: SecretStr | None = Field(None, description="Sent as `Authorization: Bearer`.")
    dialect: Literal["auto", "enginebay", "vllm", "openai"] = Field(
        "auto", description="Fields beyond the OpenAI API that the server takes; `auto` asks its model list."
    )
    served_model_name: str | None = Field(None, description="The name that the server gives its model.")
    health_path: str = Field("/health", pattern="^/", description="Answers 200 when the server is ready.")
    start_timeout_s: Seconds = Field(60.0, description="How long the server may take to become ready.")
    connect_timeout_s: Seconds = Field(10.0, description="To open a connection.")
    first_byte_timeout_s: Seconds | None = Field(600.0, description="From a request to the first byte of its answer.")
    idle_timeout_s: Seconds | None = Field(120.0, description="Between two pieces of an answer.")
    max_connections: Annotated[int, Field(ge=1)] = Field(1024, description="Requests at the same time; more wait.")
    return_token_ids: bool = Field(True, description="Ask for token ids where they can be had: they count tokens.")
    extra_headers: dict[str, str] = Field(default_factory=dict, description="Sent with every request.")
    extra_body: dict[str, JsonValue] = Field(
        default_factory=dict, description="Fields added to every generation, none that a request decides itself."
    )
    ca_file: str | None = Field(None, description="Certificates to trust for https, in PEM form.")

    @field_validator("extra_body")
    @classmethod
    def _demand_unreserved(cls, fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if reserved := sorted(fields.keys() & RESERVED_FIELDS):
            raise ValueError(f"{', '.join(reserved)}: a request decides this itself")
        return fields

    @field_validator("extra_headers")
    @classmethod
    def _demand_sound_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if problem := check_header(name, value):
                raise ValueError(problem)
        return headers
