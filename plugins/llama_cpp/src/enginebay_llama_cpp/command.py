"""The command line of llama-server, on this machine or in its image."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from enginebay.backend import BackendContext, LaunchPlan
from enginebay.backends.launch import docker_run, run_command
from enginebay.errors import ConfigError, ModelError
from enginebay.models.gguf import gguf_location, resolve_gguf
from enginebay.models.sources import HUB_PREFIX
from enginebay_llama_cpp.options import LlamaCppOptions
from enginebay_llama_cpp.settings import NEWEST_VERSION

EXECUTABLE = ("llama-server",)
API_KEY_VARIABLE = "LLAMA_API_KEY"
DEFAULT_PORT = 8080
REPOSITORY = "ghcr.io/ggml-org/llama.cpp"
_MODELS_IN_CONTAINER = PurePosixPath("/models")


def complete(context: BackendContext, plan: LaunchPlan) -> LaunchPlan:
    """Mode `managed`: llama-server itself; mode `docker`: `docker run` of its image."""
    options: LlamaCppOptions = context.options
    port = options.port or DEFAULT_PORT
    if context.mode == "docker":
        return replace(plan, command=_docker(context, plan, port), notes=(*plan.notes, _image_note(context)))
    model = _model(context, in_container=False)
    flags = (*model, *plan.arguments, *_always(options), "--host", "127.0.0.1", "--port", str(port))
    return replace(plan, command=run_command(EXECUTABLE, flags, options=options))


def fetch(context: BackendContext) -> None:
    """Have the GGUF file before the server asks for it. Blocks. Raises ModelError."""
    if not _is_of_hub(context):
        resolve_gguf(_source(context))


def check(context: BackendContext) -> None:
    """Raise ConfigError for a model that llama-server cannot load, and for an image without a fixed version."""
    if not _is_of_hub(context):
        _location(context)
    image = context.image
    if image is not None and "@sha256:" not in image and not _BUILD_TAG.search(image):
        raise ConfigError(f"{image} is another one tomorrow", path="image", expected=f"as in {_image(context)}")


_BUILD_TAG = re.compile(r":.*b\d+$")


def _docker(context: BackendContext, plan: LaunchPlan, port: int) -> tuple[str, ...]:
    options: LlamaCppOptions = context.options
    flags = (
        *_model(context, in_container=True), *plan.arguments, *_always(options),
        "--host", "0.0.0.0", "--port", str(DEFAULT_PORT),
    )  # fmt: skip
    mount = () if _is_of_hub(context) else ("-v", f"{_location(context).parent}:{_MODELS_IN_CONTAINER}:ro")
    return docker_run(
        flags,
        options=options,
        image=context.image or _image(context),
        port=port,
        container_port=DEFAULT_PORT,
        model=context.model if _is_of_hub(context) else None,
        environment=(API_KEY_VARIABLE,) if options.api_key is not None else (),
        flags=mount,
    )


def _always(options: LlamaCppOptions) -> tuple[str, ...]:
    flags = ["--metrics"]
    if options.num_threads is not None:
        flags += ["--threads", str(options.num_threads)]
    if options.num_gpu_layers is not None:
        flags += ["--n-gpu-layers", str(options.num_gpu_layers)]
    return tuple(flags)


def _image(context: BackendContext) -> str:
    """The images of a build have its number in their tags."""
    options: LlamaCppOptions = context.options
    variant = "server" if options.gpus is None else "server-cuda"
    return f"{REPOSITORY}:{variant}-{options.version or NEWEST_VERSION}"


def _image_note(context: BackendContext) -> str:
    return f"the image {context.image or _image(context)} was not run here"


# ---------------------------------------------------------------- the model


def _model(context: BackendContext, *, in_container: bool) -> tuple[str, ...]:
    options: LlamaCppOptions = context.options
    if _is_of_hub(context):
        repository = context.model.removeprefix(HUB_PREFIX)
        quantization = f":{options.hub_quantization}" if options.hub_quantization else ""
        return ("--hf-repo", repository + quantization)
    file = _location(context)
    return ("--model", str(_MODELS_IN_CONTAINER / file.name) if in_container else str(file))


def _location(context: BackendContext) -> Path:
    try:
        return gguf_location(_source(context))
    except ModelError as error:
        options: LlamaCppOptions = context.options
        raise ConfigError(str(error), path="model" if options.gguf is None else "options.gguf") from error


def _source(context: BackendContext) -> str:
    options: LlamaCppOptions = context.options
    return options.gguf or context.model


def _is_of_hub(context: BackendContext) -> bool:
    return _source(context).startswith(HUB_PREFIX)
