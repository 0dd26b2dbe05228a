"""The config as frozen, strict models. Each description is also what an editor shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from enginebay.config.bench import BenchConfig
from enginebay.config.gateway import GatewayConfig
from enginebay.config.secret import FreeMap, ReadOnlyMap, Text, TextMap
from enginebay.config.server import ServerConfig
from enginebay.config.settings import EngineSettings
from enginebay.config.source import Source

_CONFIG = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

if TYPE_CHECKING:
    SettingName = str
else:
    # a literal, so that a typo is found and an editor offers the names
    SettingName = Literal[tuple(EngineSettings.model_fields)]
SettingNames = Annotated[tuple[SettingName, ...], Field(strict=False)]


class BackendEntry(BaseModel):
    """One named backend: only what differs from the top level."""

    model_config = _CONFIG

    kind: Text | None = Field(default=None, description="Kind of the backend; the entry's name where it is left out.")
    mode: Literal["managed", "docker", "external", "in_process"] | None = Field(
        default=None, description="Who runs the engine; the kind's own default where it is left out."
    )
    model: Text | None = Field(default=None, description="Replaces the top-level model.")
    engine: EngineSettings = Field(
        default_factory=EngineSettings,
        description="Replaces the top-level settings, key by key; null goes back to the engine's own default.",
    )
    venv: Text | None = Field(default=None, description="Virtual environment that has the engine.")
    image: Text | None = Field(default=None, description="Container image with its tag.")
    url: Text | None = Field(default=None, description="Where a running server is reached.")
    replicas: Annotated[int, Field(ge=1)] = Field(default=1, description="Copies of the engine.")
    options: FreeMap = Field(
        default_factory=dict, validate_default=True, description="Settings that only this kind has."
    )
    environment: TextMap = Field(
        default_factory=dict, validate_default=True, description="Environment variables of the engine."
    )
    allow_unsupported: SettingNames = Field(
        default=(), description="Engine settings that may be dropped where this kind cannot honour them."
    )


class Config(BaseModel):
    """A config file of EngineBay."""

    model_config = _CONFIG

    version: Literal[1] = Field(description="Version of the format.")
    model: Text | None = Field(
        default=None,
        description="smollm2-135m, hf:owner/name or a directory; ENGINEBAY_MODEL or smollm2-135m if left out.",
    )
    backend: Text = Field(default="reference", description="A kind of backend, or a name from `backends`.")
    engine: EngineSettings = Field(
        default_factory=EngineSettings, description="Portable settings, compiled into each engine's own."
    )
    backends: ReadOnlyMap[BackendEntry] = Field(
        default_factory=dict, validate_default=True, description="Named backends: only what differs."
    )
    bench: BenchConfig = Field(default_factory=BenchConfig, description="The load that backends are measured under.")
    server: ServerConfig = Field(default_factory=ServerConfig, description="Where `enginebay serve` listens.")
    gateway: GatewayConfig | None = Field(
        default=None, description="Serve many models, each by a pool of replicas, with keys, limits and a ledger."
    )

    _source: Source = PrivateAttr(default_factory=lambda: Source(None))

    @property
    def source(self) -> Source:
        """File and lines, for errors that are found after loading."""
        return self._source

    @field_validator("version", mode="before")
    @classmethod
    def _whole_number(cls, version: object) -> object:
        # True and 1.0 equal 1, and would pass for the literal
        if isinstance(version, bool | float):
            raise ValueError(f"found {str(version).lower()}; expected 1")
        return version
