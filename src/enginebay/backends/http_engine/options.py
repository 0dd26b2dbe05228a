"""Options that every engine behind HTTP has. A plugin's own options model inherits from one of these."""

from __future__ import annotations

import ssl
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from enginebay.config.secret import is_secret_flag
from enginebay.errors import ConfigError
from enginebay.option_modes import only_in
from enginebay.wire.http_client import check_header

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PortNumber = Annotated[int, Field(ge=1, le=65535)]

# Where an option acts; one that is set elsewhere is refused.
SERVED = only_in("managed", "docker", "external")
LAUNCHED = only_in("managed", "docker")
OWNED = only_in("managed", "docker", "in_process")
IN_DOCKER = only_in("docker")
MANAGED = only_in("managed")
EXTERNAL = only_in("external")


class HttpOptions(BaseModel):
    """How a server is reached."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    api_key: SecretStr | None = Field(None, description="Sent as `Authorization: Bearer`.", json_schema_extra=SERVED)
    start_timeout_s: Seconds = Field(60.0, description="How long the server may take to become ready.")
    connect_timeout_s: Seconds = Field(10.0, description="To open a connection.", json_schema_extra=SERVED)
    first_byte_timeout_s: Seconds | None = Field(
        600.0, description="From a request to the first byte of its answer.", json_schema_extra=SERVED
    )
    idle_timeout_s: Seconds | None = Field(
        120.0, description="Between two pieces of an answer.", json_schema_extra=SERVED
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(
        1024, description="Requests at the same time; more wait.", json_schema_extra=SERVED
    )
    extra_headers: dict[str, str] = Field(
        default_factory=dict, description="Sent with every request.", json_schema_extra=SERVED
    )
    ca_file: str | None = Field(
        None, description="Certificates to trust for https, in PEM form.", json_schema_extra=EXTERNAL
    )

    @field_validator("extra_headers")
    @classmethod
    def _demand_sound_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if problem := check_header(name, value):
                raise ValueError(problem)
        return headers

    def headers(self) -> dict[str, str]:
        """Of every request, the key among them."""
        headers = dict(self.extra_headers)
        if self.api_key is not None:
            headers["authorization"] = f"Bearer {self.api_key.get_secret_value()}"
        return headers

    def ssl_context(self) -> ssl.SSLContext | None:
        if self.ca_file is None:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise ConfigError(
                f"{self.ca_file} cannot be read as certificates: {error}", path="options.ca_file"
            ) from error


class ServerOptions(HttpOptions):
    """Of a server that we may also launch (modes `managed` and `docker`)."""

    start_timeout_s: Seconds = Field(900.0, description="How long the engine may take to become ready.")
    stop_timeout_s: Seconds = Field(
        30.0, description="How long it may take to end before it is killed.", json_schema_extra=OWNED
    )
    port: PortNumber | None = Field(
        None, description="Of the launched server; else a free one.", json_schema_extra=LAUNCHED
    )
    executable: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Replaces the engine's own launcher, e.g. a wrapper. The arguments follow it.",
        json_schema_extra=LAUNCHED,
    )
    extra_arguments: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Appended to the command as they are: flags without a portable setting.",
        json_schema_extra=LAUNCHED,
    )
    log_file: str | None = Field(
        None, description="The engine's log is appended here; its last lines are kept anyway.", json_schema_extra=OWNED
    )
    version: str | None = Field(
        None,
        description="Release of the engine that the flags are written for; else the newest known.",
        json_schema_extra=OWNED,
    )
    container_runtime: str = Field(
        "docker", description="Mode `docker`: the program that runs the image.", json_schema_extra=IN_DOCKER
    )
    gpus: str | None = Field(
        "all", description="Mode `docker`: value of --gpus; null for none.", json_schema_extra=IN_DOCKER
    )
    cache_directory: str | None = Field(
        None,
        description="Mode `docker`: folder of the host for downloaded weights; else the hub's own cache.",
        json_schema_extra=IN_DOCKER,
    )

    @field_validator("extra_arguments")
    @classmethod
    def _demand_no_secrets(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for flag in filter(is_secret_flag, arguments):
            raise ValueError(
                f"{flag.partition('=')[0]}: every user of the machine can read a command line: set options.api_key, or "
                "the engine's own variable in the entry's `environment`"
            )
        return arguments
