"""`enginebay doctor`."""

from __future__ import annotations

import platform
import shutil
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

import enginebay
from enginebay.cli.finding import Finding
from enginebay.cli.machine import Machine, this_machine
from enginebay.config.loader import load_config
from enginebay.config.server import ServerConfig
from enginebay.configured import config_problems
from enginebay.errors import BackendNotFound, ConfigError, ModelError, PluginError
from enginebay.plugins import find_backend, list_backends

_EXTRAS = {
    "bench": ("scipy",),
    "engine": ("torch", "jinja2", "tokenizers", "safetensors"),
    "gateway": ("uvicorn", "structlog"),
    "models": ("gguf", "huggingface_hub"),
    "report": ("plotly", "jinja2"),
}
_LEAST_MEMORY_BYTES = 2 * 2**30
_LEAST_DISK_BYTES = 2**30
_MARKS = {"good": "[green]good[/green]", "note": "[yellow]note[/yellow]", "bad": "[red]bad [/red]"}


def doctor(config: Annotated[Path | None, Parameter(help="Also check this config, and its port.")] = None, /) -> int:
    """Look at this machine: what is installed, cores, memory, GPU, kernels, models, ports.

    Exit code 1 where something is bad.
    """
    console = Console(highlight=False, soft_wrap=True)
    is_well = True
    for finding in _findings(config):
        advice = f" [dim]{escape(finding.advice)}[/dim]" if finding.advice else ""
        console.print(f"{_MARKS[finding.level]}  {escape(finding.what)}{advice}")
        is_well &= finding.level != "bad"
    return 0 if is_well else 1


def _findings(config: Path | None) -> Iterator[Finding]:
    machine = this_machine()
    yield Finding(
        "good", f"enginebay {enginebay.__version__}, Python {platform.python_version()}, {platform.platform()}"
    )
    yield from _extras()
    yield from _backends()
    yield from _hardware(machine)
    if find_spec("torch") is not None:
        torch = _torch(machine)
        yield torch
        if torch.level != "bad":
            from enginebay.cli.doctor_kernels import kernel_findings

            yield from kernel_findings()
    yield from _models()
    if config is None:
        yield _port(ServerConfig())
    else:
        yield from _config(config)


def _extras() -> Iterator[Finding]:
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            advice = f"install it with: pip install 'enginebay[{extra}]'"
            yield Finding("note", f"extra {extra!r}: {', '.join(missing)} not installed;", advice)
        else:
            installed = ", ".join(f"{module} {_version(module)}" for module in modules)
            yield Finding("good", f"extra {extra!r}: {installed}")


def _version(module: str) -> str:
    try:
        return version(module)
    except PackageNotFoundError:
        return "(no version)"


def _backends() -> Iterator[Finding]:
    for backend in list_backends():
        try:
            spec = find_backend(backend.kind)
        except PluginError as error:
            yield Finding("bad", str(error))
        else:
            yield Finding("good", f"backend {backend.kind!r} of {backend.distributions[0]}: {', '.join(spec.modes)}")


def _hardware(machine: Machine) -> Iterator[Finding]:
    yield Finding("good", f"{machine.num_cores:g} cores")
    memory = f"{_gib(machine.memory_bytes)} of memory, {_gib(machine.available_memory_bytes)} available"
    if machine.available_memory_bytes < _LEAST_MEMORY_BYTES:
        yield Finding("note", f"{memory};", "the demo model with its KV cache needs about 2 GiB")
    else:
        yield Finding("good", memory)
    for gpu in machine.gpus:
        yield Finding("good", f"GPU: {gpu}")
    if not machine.gpus:
        yield Finding("note", "no NVIDIA GPU;", "engines run on the CPU where they can")


def _torch(machine: Machine) -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("bad", f"torch cannot be imported: {error};", "install it again")
    name = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        return Finding("good", f"{name} sees {torch.cuda.device_count()} GPU(s)")
    if machine.gpus:
        return Finding("bad", f"{name} sees no GPU, though there is one;", "install a CUDA build of torch")
    return Finding("good", f"{name} on the CPU, {torch.get_num_threads()} threads")


def _models() -> Iterator[Finding]:
    from enginebay.models.cache import ModelCache, default_cache_root

    try:
        root = default_cache_root()
    except ModelError as error:
        yield Finding("bad", str(error))
        return
    models = dict.fromkeys(
        manifest.source for _, manifest in ModelCache(root).entries()
    )  # one may be there in two forms
    if models:
        yield Finding("good", f"models in {root}: {', '.join(models)}")
    else:
        yield Finding("note", f"no models in {root};", "fetch one with: enginebay models pull smollm2-135m")
    free_bytes = shutil.disk_usage(_existing(root)).free
    level = "good" if free_bytes >= _LEAST_DISK_BYTES else "note"
    yield Finding(level, f"{_gib(free_bytes)} free for models")


def _config(path: Path) -> Iterator[Finding]:
    try:
        config = load_config(path)
    except ConfigError as error:
        yield Finding("bad", str(error))
        return
    problems = config_problems(config)
    for problem in problems:
        # an entry for an engine that other machines have is no fault of this one
        yield Finding("note" if isinstance(problem, BackendNotFound) else "bad", str(problem))
    if not problems:
        yield Finding("good", f"config {path}")
    yield _port(config.server)


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _port(server: ServerConfig) -> Finding:
    host, port = str(server.host), server.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        return Finding("note", f"cannot listen on {host}:{port}: {error.strerror};", "choose another with --port")
    return Finding("good", f"{host}:{port} is free")


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
