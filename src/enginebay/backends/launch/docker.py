"""The arguments of `docker run`, from the options of an entry and what the image wants."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from enginebay.backends.http_engine.options import ServerOptions
from enginebay.backends.launch.command import check_extra_arguments
from enginebay.backends.launch.model import model_mount
from enginebay.errors import ConfigError

HUB_CACHE_IN_CONTAINER = "/root/.cache/huggingface"


def docker_run(
    arguments: Sequence[str],
    *,
    options: ServerOptions,
    image: str,
    port: int,
    container_port: int,
    model: str | None,
    environment: Iterable[str] = (),
    cache_in_container: str | None = HUB_CACHE_IN_CONTAINER,
    shm_size: str | None = None,
    flags: Sequence[str] = (),
) -> tuple[str, ...]:
    """arguments: the engine's own, behind the image. environment: names alone; `launched_server` sets their values.

    The port is open to this machine only. A model that is a directory is mounted at `container_model_argument(model)`,
    the hub's cache for any other at cache_in_container; for None the caller mounts what it needs, by flags.
    flags: more of `docker run`, such as `--ipc host`. Raises ConfigError for an extra argument that is among
    `arguments` already.
    """
    check_extra_arguments(arguments, options=options)
    command = [options.container_runtime, "run", "--rm"]
    if options.gpus is not None:
        command += ["--gpus", options.gpus]
    if shm_size is not None:
        command += ["--shm-size", shm_size]
    command += [*flags, "-p", f"127.0.0.1:{port}:{container_port}"]
    for here, there in _volumes(options, model, cache_in_container).items():
        command += ["-v", f"{here}:{there}"]
    for name in dict.fromkeys(environment):
        command += ["-e", name]
    if options.executable:
        command += ["--entrypoint", options.executable[0]]
    return (*command, image, *options.executable[1:], *arguments, *options.extra_arguments)


def _volumes(options: ServerOptions, model: str | None, cache_in_container: str | None) -> Mapping[str, str]:
    volumes: dict[str, str] = {}
    if model is None:
        return volumes
    if mount := model_mount(model):
        volumes[str(mount[0])] = f"{mount[1]}:ro"
    elif cache_in_container is not None:
        volumes[options.cache_directory or _hub_cache()] = cache_in_container
    return volumes


def _hub_cache() -> str:
    """Raises ConfigError where it lies in a home directory and there is none."""
    try:
        return os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    except RuntimeError as error:
        raise ConfigError(
            "there is no home directory for the hub's cache; set HF_HOME, or this",
            path="options.cache_directory",
            expected="a folder",
        ) from error
