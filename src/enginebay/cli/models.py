"""`enginebay models pull|list|convert`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from enginebay.models.catalogue import CATALOGUE
from enginebay.models.listing import cached_models
from enginebay.models.progress import ProgressCallback, PullProgress

BYTES_PER_MEGABYTE = 1e6


def pull(
    source: Annotated[str, Parameter(help="smollm2-135m, hf:owner/name[@revision], or a directory to check.")],
    *,
    revision: Annotated[str | None, Parameter(help="Branch, tag or commit of a hub repository.")] = None,
    offline: Annotated[bool, Parameter(help="Only look in the cache.", negative="")] = False,
) -> None:
    """Fetch a model, so that it can be used offline. Prints its directory."""
    from enginebay.models.sources import resolve_model

    with _shown_progress() as progress:
        directory = resolve_model(source, revision=revision, offline=offline, refresh=not offline, progress=progress)
    print(directory)


def convert(
    source: Annotated[str, Parameter(help="smollm2-135m, hf:owner/name[@revision], or a directory.")],
    *,
    to: Annotated[str, Parameter(help="Kind of the backend that is to read the result, e.g. openvino.")],
    weight_format: Annotated[str | None, Parameter(help="In the engine's words, e.g. fp16 or int8.")] = None,
    venv: Annotated[str | None, Parameter(help="Virtual environment that has the converter.")] = None,
) -> None:
    """Bring a model into the form that one engine reads. Prints its directory; made once, then only looked up."""
    from enginebay.errors import ConfigError
    from enginebay.models.sources import resolve_model
    from enginebay.plugins import find_backend

    spec = find_backend(to)
    if spec.convert is None:
        raise ConfigError(f"backend {spec.kind!r} reads a model as it is: there is nothing to convert", path="--to")
    with _shown_progress() as progress:
        directory = resolve_model(source, progress=progress)
        directory = spec.convert(directory, weight_format=weight_format, venv=venv, progress=progress)
    print(directory)


def list_models() -> None:
    """List the models in the cache, and the named ones that could be pulled."""
    models = cached_models()
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("licence")
    table.add_column("pulled", no_wrap=True)
    table.add_column("directory", overflow="fold")
    for model in models:
        size = f"{model.num_bytes / BYTES_PER_MEGABYTE:,.0f} MB"
        table.add_row(model.source, size, model.licence or "", f"{model.pulled_at:%Y-%m-%d}", str(model.directory))
    for model in CATALOGUE:
        if model.name not in {known.source for known in models}:
            table.add_row(model.name, "", model.licence, "no", f"enginebay models pull {model.name}")
    Console().print(table)


@contextmanager
def _shown_progress() -> Iterator[ProgressCallback]:
    """Bars on a terminal's standard error; elsewhere one line for each step."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _StepLines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars)


class _StepLines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: set[str] = set()

    def __call__(self, progress: PullProgress) -> None:
        if progress.step not in self._shown:
            self._shown.add(progress.step)
            self._console.print(progress.step, highlight=False, soft_wrap=True)


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, progress: PullProgress) -> None:
        if progress.step not in self._tasks:
            self._tasks[progress.step] = self._bars.add_task(progress.step, total=None, done="")
        self._bars.update(
            self._tasks[progress.step], completed=progress.completed, total=progress.total, done=_amount(progress)
        )


def _amount(progress: PullProgress) -> str:
    if progress.total is None:
        return ""
    if progress.unit == "bytes":
        completed, total = progress.completed / BYTES_PER_MEGABYTE, progress.total / BYTES_PER_MEGABYTE
        return f"{completed:,.1f}/{total:,.1f} MB"
    return f"{progress.completed}/{progress.total} {progress.unit}"
