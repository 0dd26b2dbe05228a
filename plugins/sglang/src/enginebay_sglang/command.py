"""The command line of sglang.launch_server, on this machine or in its image."""

from __future__ import annotations

from dataclasses import replace

from enginebay.backend import BackendContext, LaunchPlan
from enginebay.backends.launch import container_model_argument, docker_run, model_argument, run_command
from enginebay.backends.launch.image import is_pinned
from enginebay.backends.launch.second_model import second_model_mounts, settings_in_container
from enginebay.errors import ConfigError
from enginebay_sglang.options import SglangOptions
from enginebay_sglang.settings import compile_settings

EXECUTABLE = ("python", "-m", "sglang.launch_server")
DEFAULT_PORT = 30000
REPOSITORY = "lmsysorg/sglang"


def complete(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    """Mode `managed`: the module itself; mode `docker`: `docker run` of an image that the entry names."""
    options: SglangOptions = context.options
    port = options.port or DEFAULT_PORT
    if context.mode == "docker":
        plan = _in_container(context, plan)
        note = f"the image {context.image} was not run here"
        return replace(plan, command=_docker(context, plan, port), notes=(*plan.notes, note))
    flags = (*_flags(model_argument(context.model), plan, options), "--host", "127.0.0.1", "--port", str(port))
    return replace(plan, command=run_command(EXECUTABLE, flags, options=options))


def check(context: BackendContext) -> None:
    """Raise ConfigError for what `create` would refuse."""
    options: SglangOptions = context.options
    model_argument(context.model)
    if options.api_key is not None:
        raise ConfigError(
            "SGLang takes its key on the command line only, where every user of the machine can read it; "
            "a launched server listens on this machine alone and has none",
            path="options.api_key",
            expected="no key, or mode external",
        )
    if context.mode == "docker":
        _check_image(context.image)


def _check_image(image: str | None) -> None:
    """The image that the project documents is `latest`: what it is changes from day to day."""
    if image is None or not is_pinned(image):
        raise ConfigError(
            "mode docker needs an image of a fixed version" + (f", not {image}" if image else ""),
            path="image",
            expected=f"a release, as in {REPOSITORY}:<version>, or a digest",
        )


def _flags(model: str, plan: LaunchPlan, options: SglangOptions) -> tuple[str, ...]:
    """Metrics are off by default. Streams without repetition, since each event would carry all text before it."""
    always = ("--enable-metrics", "--incremental-streaming-output", "--sampling-defaults", "openai")
    deterministic = ("--enable-deterministic-inference",) if options.deterministic else ()
    return ("--model-path", model, *plan.arguments, *always, *deterministic)


def _in_container(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    """The plan with the directories of its settings where they are mounted."""
    compiled = compile_settings(settings_in_container(context.settings), None)
    asked = tuple(replace(outcome, value=context.settings[outcome.setting]) for outcome in compiled.outcomes)
    return replace(plan, outcomes=asked, arguments=compiled.arguments)


def _docker(context: BackendContext, plan: LaunchPlan, port: int) -> tuple[str, ...]:
    options: SglangOptions = context.options
    flags = _flags(container_model_argument(context.model), plan, options)
    return docker_run(
        (*EXECUTABLE, *flags, "--host", "0.0.0.0", "--port", str(DEFAULT_PORT)),
        options=options,
        image=context.image or "",
        port=port,
        container_port=DEFAULT_PORT,
        model=context.model,
        shm_size="32g",
        flags=("--ipc", "host", *second_model_mounts(context.settings)),
    )
