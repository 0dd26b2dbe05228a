"""`options:` of a TGI backend."""

from __future__ import annotations

from pydantic import Field

from enginebay.backends.http_engine.options import IN_DOCKER, MANAGED, PortNumber, ServerOptions


class TgiOptions(ServerOptions):
    enable_prefill_logprobs: bool = Field(
        False,
        description="The server computes log-probabilities of the prompt: `--enable-prefill-logprobs` when we launch "
        "it, told by you when it runs already. Without it TGI answers such a request with an empty list.",
    )
    shm_size: str = Field(
        "1g",
        description="Mode `docker`: shared memory, which the shards of one model talk through.",
        json_schema_extra=IN_DOCKER,
    )
    prometheus_port: PortNumber | None = Field(
        None,
        description="Mode `managed`: TGI binds a second port (9000) that nothing answers on, and ends where that is "
        "taken. Two servers on one machine need two.",
        json_schema_extra=MANAGED,
    )
