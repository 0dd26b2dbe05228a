"""Numbers of tokens in `bench:`, fixed or drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]

STRICT = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)


class TokenRange(BaseModel):
    """Lengths drawn uniformly, both ends included."""

    model_config = STRICT

    kind: Literal["uniform"] = Field(default="uniform", description="May be left out.")
    min: PositiveInt = Field(description="Fewest tokens.")
    max: PositiveInt = Field(description="Most tokens.")

    @model_validator(mode="after")
    def _ordered(self) -> TokenRange:
        _demand_order(self.min, self.max)
        return self


class BellLengths(BaseModel):
    """Lengths drawn from a bell curve; those outside the bounds are drawn again."""

    model_config = STRICT

    kind: Literal["normal", "lognormal"] = Field(description="lognormal: many short ones and a long tail.")
    mean: PositiveFloat = Field(description="Mean, before the bounds cut.")
    std: PositiveFloat = Field(description="Standard deviation, before the bounds cut.")
    min: PositiveInt = Field(default=1, description="Fewest tokens.")
    max: PositiveInt = Field(description="Most tokens.")

    @model_validator(mode="after")
    def _ordered(self) -> BellLengths:
        _demand_order(self.min, self.max)
        return self


class RecordedLengths(BaseModel):
    """Lengths that were seen somewhere, each as likely as the others."""

    model_config = STRICT

    kind: Literal["recorded"] = Field(description="Lengths that were seen somewhere.")
    values: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = Field(
        description="The lengths; one that stands twice is drawn twice as often."
    )


def _demand_order(lowest: int, highest: int) -> None:
    if highest < lowest:
        raise ValueError(f"max ({highest}) is less than min ({lowest})")


def _kind(value: object) -> str:
    if isinstance(value, BaseModel):
        return str(getattr(value, "kind", ""))
    if isinstance(value, Mapping):
        return str(cast("Mapping[str, object]", value).get("kind", "uniform"))
    return "fixed"


TokenLengths = Annotated[
    Annotated[PositiveInt, Tag("fixed")]
    | Annotated[TokenRange, Tag("uniform")]
    | Annotated[BellLengths, Tag("normal")]
    | Annotated[BellLengths, Tag("lognormal")]
    | Annotated[RecordedLengths, Tag("recorded")],
    Discriminator(_kind),
]
"""A number, a range, or a map with a `kind`."""
