"""`gateway.models`: what clients call a model, and which backends serve each of its versions."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from enginebay.config.secret import ReadOnlyMap, Text

STRICT = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


class ReplicasConfig(BaseModel):
    """One backend of a version; its entry's `replicas` says how many copies of it are started."""

    model_config = STRICT

    backend: Text = Field(description="A name from `backends`, or a kind.")
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1.0, description="Share of the load beside the version's other backends."
    )


class ModelConfig(BaseModel):
    model_config = STRICT

    versions: ReadOnlyMap[Annotated[tuple[ReplicasConfig, ...], Field(strict=False, min_length=1)]] = Field(
        min_length=1, description="Versions by name, each a list of backends that serve it together."
    )
    current: Text | None = Field(
        default=None, description="The version that is served; may be left out where there is one."
    )
    default_max_tokens: Annotated[int, Field(ge=1)] = Field(
        default=1024,
        description="Output tokens where a request names no max_tokens; at most the rest of the context.",
    )
    fallbacks: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=(), description="Other models of this map that answer, in this order, where no replica of this one can."
    )

    @model_validator(mode="after")
    def _current_is_a_version(self) -> ModelConfig:
        if self.current is None and len(self.versions) > 1:
            raise ValueError(f"there are several versions ({', '.join(self.versions)}): say which is `current`")
        if self.current is not None and self.current not in self.versions:
            raise ValueError(f"current is {self.current!r}; the versions are {', '.join(self.versions)}")
        return self

    @property
    def current_version(self) -> str:
        return self.current if self.current is not None else next(iter(self.versions))
