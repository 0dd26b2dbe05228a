"""The whole command line: the launcher on this machine, or `docker run` with the launcher's flags behind the image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from enginebay.backend import BackendContext, LaunchPlan
from enginebay.backends.launch import container_model_argument, docker_run, model_argument, run_command
from enginebay.errors import ConfigError
from enginebay_tgi.options import TgiOptions
from enginebay_tgi.settings import KNOWN_SERIES, NEWEST_VERSION

LAUNCHER = "text-generation-launcher"
REPOSITORY = "ghcr.io/huggingface/text-generation-inference"
DEFAULT_IMAGE = f"{REPOSITORY}:{NEWEST_VERSION}"
IMAGE_NOTE = f"whether the tag {DEFAULT_IMAGE} is published was not verified: TGI's own README names 3.3.5"
DEFAULT_PORT = 8080
"""Shown where no port was chosen yet."""
CONTAINER_PORT = 80
"""The image sets PORT=80."""
CACHE_IN_CONTAINER = "/data"
API_KEY_VARIABLE = "API_KEY"
_RELEASE = re.compile(r":v?(\d+\.\d+\.\d+)")


def version(context: BackendContext) -> str | None:
    """From `options.version`, else the image's tag."""
    options: TgiOptions = context.options
    if options.version is not None:
        return options.version
    tagged = _RELEASE.search(context.image or "")
    return tagged.group(1) if tagged else None


def launch(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    if context.mode == "managed":
        return _managed(context, plan)
    return _in_docker(context, plan)


def secrets(options: TgiOptions) -> Mapping[str, str]:
    """Environment of the server: a key on its command line would stand in every list of processes."""
    return {} if options.api_key is None else {API_KEY_VARIABLE: options.api_key.get_secret_value()}


def check_image(context: BackendContext) -> None:
    """An image that changes under its name would make two runs incomparable."""
    image = context.image
    if image is None or "@sha256:" in image:
        return
    name = image.rpartition("/")[2]
    tag = name.partition(":")[2]
    if not tag or tag.startswith("latest"):
        raise ConfigError(
            f"{image!r} is not pinned to a release", path="image", expected=f"a tag such as {DEFAULT_IMAGE}"
        )


def check_version(context: BackendContext) -> None:
    wanted = version(context)
    if wanted is not None and not wanted.startswith(KNOWN_SERIES):
        path = "options.version" if context.options.version is not None else "image"
        raise ConfigError(f"TGI {wanted} has other flags", path=path, expected=f"TGI 3, such as {NEWEST_VERSION}")


def _managed(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    options: TgiOptions = context.options
    arguments = (
        "--model-id", model_argument(context.model),
        *plan.arguments,
        *_own_flags(options),
        "--hostname", "127.0.0.1",
        "--port", str(options.port or DEFAULT_PORT),
    )  # fmt: skip
    if options.prometheus_port is not None:
        arguments = (*arguments, "--prometheus-port", str(options.prometheus_port))
    return replace(plan, command=run_command((LAUNCHER,), arguments, options=options))


def _in_docker(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    options: TgiOptions = context.options
    arguments = ("--model-id", container_model_argument(context.model), *plan.arguments, *_own_flags(options))
    command = docker_run(
        arguments,
        options=options,
        image=context.image or DEFAULT_IMAGE,
        port=options.port or DEFAULT_PORT,
        container_port=CONTAINER_PORT,
        model=context.model,
        environment=[*plan.environment, *context.environment, *secrets(options)],
        cache_in_container=CACHE_IN_CONTAINER,
        shm_size=options.shm_size,
    )
    notes = plan.notes if context.image else (*plan.notes, IMAGE_NOTE)
    return replace(plan, command=command, notes=notes)


def _own_flags(options: TgiOptions) -> tuple[str, ...]:
    return ("--enable-prefill-logprobs",) if options.enable_prefill_logprobs else ()
