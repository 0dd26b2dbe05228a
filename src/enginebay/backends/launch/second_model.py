"""A tokenizer or a second model that a setting names, in an engine's command line.

It is named like the model itself; any other word is left to the engine, as it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from enginebay.backend import Settings
from enginebay.backends.launch.model import fetch_model, model_argument
from enginebay.errors import ConfigError
from enginebay.models.sources import HUB_PREFIX

SECOND_MODELS = ("tokenizer", "speculative_draft_model", "speculative_eagle")
CONTAINER_SETTINGS = PurePosixPath("/settings")
"""Each directory is mounted below it, under the name of its setting."""


def second_model_argument(source: str) -> str:
    """A directory, `owner/name` of the hub, or the word itself.

    Raises ConfigError for a name of the hub that is none, and for one with a revision, which no engine takes for it.
    """
    try:
        return model_argument(source)
    except ConfigError as error:
        if not source.strip().startswith(HUB_PREFIX):
            return source
        if "@" in source:
            name = source.partition("@")[0]
            problem = f"{source!r} has a revision in it, which is for the model alone: give {name}"
            raise ConfigError(problem) from error
        raise ConfigError(error.problem) from error


def is_told_as(setting: str, asked: object, told: object) -> bool:
    """Whether an engine that was given this tokenizer or draft may call it so: by its place, here or in a container."""
    if setting not in SECOND_MODELS:
        return False
    source = str(asked)
    try:
        places = {source, second_model_argument(source), str(settings_in_container({setting: source})[setting])}
    except ConfigError:
        return False
    return str(told) in places


def settings_in_container(settings: Settings) -> Settings:
    """The same where a container reads them: directories of this machine are where they are mounted."""
    return {**settings, **{setting: str(there) for setting, _, there in _directories(settings)}}


def second_model_mounts(settings: Settings) -> tuple[str, ...]:
    """Flags of `docker run`."""
    return tuple(word for _, here, there in _directories(settings) for word in ("-v", f"{here}:{there}:ro"))


def fetch_models(source: str, settings: Settings) -> None:
    """`fetch_model` of the model and of every second one that is ours to fetch. Blocks. Raises ModelError."""
    fetch_model(source)
    for _, second in _named(settings):
        if _directory(second) is not None:
            fetch_model(second)


def are_here(settings: Settings) -> bool:
    """Whether each one that is named is a directory of this machine, or will be once it is fetched."""
    return all(_directory(source) is not None for _, source in _named(settings))


def _directories(settings: Settings) -> Iterator[tuple[str, Path, PurePosixPath]]:
    for setting, source in _named(settings):
        if (directory := _directory(source)) is not None:
            yield setting, directory, CONTAINER_SETTINGS / setting


def _named(settings: Settings) -> list[tuple[str, str]]:
    return [(setting, str(settings[setting])) for setting in SECOND_MODELS if settings.get(setting) is not None]


def _directory(source: str) -> Path | None:
    """None for what is not on this machine by our knowledge: the engine's own word, the hub."""
    try:
        place = Path(model_argument(source))
    except ConfigError:
        return None
    return place if place.is_absolute() else None
