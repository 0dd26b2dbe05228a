"""What stands for the model in an engine's command line, whether the model is here already or not."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from enginebay.errors import ConfigError, ModelNotFound
from enginebay.models.cache import ModelCache, default_cache_root
from enginebay.models.catalogue import PackagedModel
from enginebay.models.hub_records import HubSource
from enginebay.models.packaged import model_directory
from enginebay.models.sources import parse_source, resolve_model

CONTAINER_MODELS = PurePosixPath("/models")
"""Where a directory with a model is mounted in a container."""


def model_argument(source: str) -> str:
    """A directory for a catalogue name (where it will be once pulled) and for a directory; `owner/name` for the hub.

    Raises ConfigError for what names no model, and for `hf:owner/name@revision`: a revision is a setting of its own.
    """
    found = _parsed(source)
    return found if isinstance(found, str) else str(found)


def container_model_argument(source: str) -> str:
    """The same inside a container: directories are mounted below `CONTAINER_MODELS` (`docker_run`)."""
    found = _parsed(source)
    return found if isinstance(found, str) else str(CONTAINER_MODELS / found.name)


def model_mount(source: str) -> tuple[Path, PurePosixPath] | None:
    """(directory here, directory in a container); None for a model that the engine fetches from the hub."""
    found = _parsed(source)
    return None if isinstance(found, str) else (found, CONTAINER_MODELS / found.name)


def fetch_model(source: str) -> None:
    """Have the directory of a catalogue name, or see that a directory is a model's. Blocks. Raises ModelError.

    A model of the hub is left to the engine, which knows what files it needs.
    """
    if not isinstance(_parsed(source), str):
        resolve_model(source)


def _parsed(source: str) -> Path | str:
    try:
        found = parse_source(source)
    except ModelNotFound as error:
        raise ConfigError(str(error), path="model") from error
    match found:
        case PackagedModel() as model:
            return model_directory(model, ModelCache(default_cache_root()))
        case HubSource(repository, None):
            return repository
        case HubSource(repository, revision):
            raise ConfigError(
                f"{source!r} has a revision in it, which the engine takes as a setting",
                path="model",
                expected=f"model: hf:{repository} and engine: {{revision: {revision}}}",
            )
        case Path() as directory:
            return directory
