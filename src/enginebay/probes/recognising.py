"""Which engine runs behind a URL: asked of every installed plugin, before anything is sent that costs a token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from enginebay.backend import BackendSpec
from enginebay.backends.http_engine.api import PROBE_TIMEOUT_S
from enginebay.clock import Clock
from enginebay.errors import BackendError, BackendUnavailable, PluginError, StartFailed
from enginebay.plugins import find_backend, list_backends
from enginebay.quantities import SIMULATED_HEADER
from enginebay.recognition import METRICS_PATH, MODELS_PATH, Answer, Answers, ListedModel, listed_models
from enginebay.wire.http_client import HttpClient

FALLBACK_KIND = "openai_http"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognisedServer:
    url: str
    kind: str
    """The kind of backend that speaks to it best."""
    because: str
    """What showed it, in words."""
    models: tuple[ListedModel, ...]
    simulated: bool


async def recognise_server(url: str, *, clock: Clock, headers: Mapping[str, str]) -> RecognisedServer:
    """headers: the key, if the server wants one. Sends GETs only.

    Raises StartFailed where nothing answers, the server refuses us, or it serves no language model.
    """
    base = server_address(url)
    specs = _specs()
    client = HttpClient(base, clock=clock, max_connections=1, headers=headers, backend=base)
    try:
        answers: dict[str, Answer] = {MODELS_PATH: await _ask_models(client, base)}
        found = _recognised(specs, answers)
        paths = {path for spec in specs if spec.recognition for path in spec.recognition.paths}
        for asked in (sorted(paths - {METRICS_PATH}), sorted(paths & {METRICS_PATH})):
            if not found:
                answers |= await _ask(client, asked)
                found = _recognised(specs, answers)
    finally:
        await client.aclose()
    return _server(base, found, answers)


def server_address(url: str) -> str:
    """Without the version that clients of the OpenAI API put behind it."""
    return url.rstrip("/").removesuffix("/v1")


def _specs() -> list[BackendSpec]:
    """Of every plugin that can be loaded; a broken one recognises nothing."""
    specs: list[BackendSpec] = []
    for backend in list_backends():
        try:
            specs.append(find_backend(backend.kind))
        except PluginError:
            continue  # `enginebay backends` tells what is wrong with it
    return specs


async def _ask_models(client: HttpClient, base: str) -> Answer:
    try:
        answer = await _get(client, MODELS_PATH)
    except BackendUnavailable as error:
        raise StartFailed(
            f"nothing answers at {base}: {error}",
            backend=base,
            likely_cause="the server does not run, or listens on another address or port",
        ) from error
    except BackendError as error:
        raise StartFailed(f"{base}: {error}", backend=base, likely_cause="this is no HTTP server") from error
    if answer.status in (401, 403):
        raise StartFailed(
            f"{base} refuses us (HTTP {answer.status})",
            backend=base,
            likely_cause="the API key: put it into an environment variable and name that with --api-key-env",
        )
    return answer


async def _ask(client: HttpClient, paths: Iterable[str]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for path in paths:
        try:
            answers[path] = await _get(client, path)
        except BackendError:
            continue  # a path that is not answered shows nothing
    return answers


async def _get(client: HttpClient, path: str) -> Answer:
    response = await client.request("GET", path, timeout_s=PROBE_TIMEOUT_S)
    return Answer(status=response.status, headers=response.headers, body=response.body)


def _recognised(specs: Iterable[BackendSpec], answers: Answers) -> dict[str, str]:
    """Kind -> what showed it."""
    return {
        spec.kind: evidence
        for spec in specs
        if spec.recognition is not None and (evidence := spec.recognition.evidence(answers)) is not None
    }


def _server(base: str, found: Mapping[str, str], answers: Answers) -> RecognisedServer:
    models = listed_models(answers)
    if not found and models is None:
        raise StartFailed(
            f"{base} answers, but as no server of a language model: {MODELS_PATH} gave HTTP "
            f"{answers[MODELS_PATH].status} and no model list, and no installed backend knows its other answers",
            backend=base,
            likely_cause="another address or port, or a proxy in between that hides the server",
        )
    kind, because = _choice(found, answers)
    simulated = any(answer.headers.get(SIMULATED_HEADER) == "1" for answer in answers.values())
    return RecognisedServer(url=base, kind=kind, because=because, models=models or (), simulated=simulated)


def _choice(found: Mapping[str, str], answers: Answers) -> tuple[str, str]:
    if len(found) == 1:
        [(kind, because)] = found.items()
        return kind, because
    if found:
        return FALLBACK_KIND, f"it looks like {' and like '.join(sorted(found))}, so that it is taken for neither"
    owners = sorted({model.owned_by for model in listed_models(answers) or () if model.owned_by})
    told = f" (models owned by {', '.join(map(repr, owners))})" if owners else ""
    return FALLBACK_KIND, f"it lists its models as OpenAI does{told}, and no other backend knows it"
