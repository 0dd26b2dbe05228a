"""What a ready TGI says of itself: /info, and by /tokenize whether our key is good and the tokenizer adds tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from enginebay.backends.http_engine.api import JSON_HEADERS, PROBE_TIMEOUT_S
from enginebay.errors import StartFailed
from enginebay.types import BackendInfo, Capabilities
from enginebay.wire.http_client import HttpClient
from enginebay.wire.http_types import HttpResponse
from enginebay_tgi.errors import error_from_answer

SIMULATED_HEADER = "x-enginebay-simulated"
RELEASES: Mapping[str, str] = {"dfb3fbe78e0d1d69251bd33065591c61bafdfaa8": "3.3.7"}
"""Releases by their commit: at the tag 3.3.7 the version in the source is still 3.3.6-dev0."""


class Info(msgspec.Struct):
    model_id: str
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    model_sha: str | None = None
    model_pipeline_tag: str | None = None
    sha: str | None = None
    docker_label: str | None = None


class SimpleToken(msgspec.Struct):
    id: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Found:
    info: BackendInfo
    adds_special_tokens: bool


async def find_out(http: HttpClient, info: BackendInfo, *, backend: str) -> Found:
    """Raises StartFailed when this is no TGI, or it refuses us."""
    response = await http.request("GET", "/info", timeout_s=PROBE_TIMEOUT_S)
    told = _read_info(response, backend=backend)
    found = replace(
        info,
        engine_version=RELEASES.get(told.sha or "", told.version),
        max_model_len=told.max_total_tokens,
        capabilities=_capabilities(info.capabilities, told),
        effective_settings=_settings(told),
        simulated=response.headers.get(SIMULATED_HEADER) == "1",
    )
    return Found(found, await _adds_special_tokens(http, backend=backend))


def decode_tokens(body: bytes) -> list[SimpleToken]:
    return msgspec.json.decode(body, type=list[SimpleToken])


def _read_info(response: HttpResponse, *, backend: str) -> Info:
    if response.status != 200:
        problem = f"/info answered with HTTP {response.status}: this is no TGI server, or a proxy that hides it"
        raise StartFailed(problem, backend=backend)
    try:
        return msgspec.json.decode(response.body, type=Info)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartFailed(f"/info is not that of a TGI server: {error}", backend=backend) from error


def _capabilities(declared: Capabilities, told: Info) -> Capabilities:
    return replace(declared, max_stop_strings=told.max_stop_sequences)


def _settings(told: Info) -> dict[str, object]:
    """Portable names first. What /info does not tell (dtype, shards, memory, caching) stays unknown."""
    settings: dict[str, object] = {
        "max_num_seqs": told.max_concurrent_requests,
        "max_model_len": told.max_total_tokens,
        "served_model_name": told.model_id,
        "max_input_tokens": told.max_input_tokens,
        "max_stop_sequences": told.max_stop_sequences,
        "max_best_of": told.max_best_of,
        "max_client_batch_size": told.max_client_batch_size,
        "validation_workers": told.validation_workers,
        "reported_version": told.version,
    }
    for name in ("model_sha", "model_pipeline_tag", "sha", "docker_label"):
        if (value := getattr(told, name)) is not None:
            settings[name] = value
    return settings


async def _adds_special_tokens(http: HttpClient, *, backend: str) -> bool:
    """/info is open to everybody: /tokenize is the cheapest route that asks for the key.

    Special tokens stand for no text: they begin and end at the same place.
    """
    body = msgspec.json.encode({"inputs": "a"})
    response = await http.request("POST", "/tokenize", body=body, headers=JSON_HEADERS, timeout_s=PROBE_TIMEOUT_S)
    if response.status != 200:
        error = error_from_answer(response.status, response.body, response.headers, backend=backend)
        raise StartFailed(f"/tokenize: {error}", backend=backend) from error
    try:
        return any(token.start == token.stop for token in decode_tokens(response.body))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartFailed(f"/tokenize is not that of a TGI server: {error}", backend=backend) from error
